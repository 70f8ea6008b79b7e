// Coefficients of algorithm AS 241 (PPND16) of Wichura, Applied Statistics 37 (1988) 477, doi:10.2307/2347330: the
// quantile of the standard normal distribution in double precision, highest powers first.
//
// With q = p - 1/2: q P(r) / Q(r) with r = kCentreOffset - q^2 where abs(q) <= kCentreWidth; in the tails
// r = sqrt(-ln(min(p, 1 - p))), and P(r - kNear) / Q(r - kNear) for r <= kFar, P(r - kFar) / Q(r - kFar) beyond.
#pragma once

namespace hepgen::as241 {

inline constexpr double kCentreWidth = 0.425, kCentreOffset = 0.180625, kNear = 1.6, kFar = 5.0;
inline constexpr double kCentreTop[] = {2.50908092873012267270e+3, 3.34305755835881281050e+4, 6.72657709270087008530e+4,
                                        4.59219539315498714570e+4, 1.37316937655094611250e+4, 1.97159095030655144270e+3,
                                        1.33141667891784377450e+2, 3.38713287279636660800e+0};
inline constexpr double kCentreBottom[] = {
    5.22649527885285456100e+3, 2.87290857357219426740e+4, 3.93078958000927106100e+4, 2.12137943015865958670e+4,
    5.39419602142475110770e+3, 6.87187007492057908300e+2, 4.23133307016009112520e+1, 1.0};
inline constexpr double kNearTop[] = {7.74545014278341407640e-4, 2.27238449892691845833e-2, 2.41780725177450611770e-1,
                                      1.27045825245236838258e+0, 3.64784832476320460504e+0, 5.76949722146069140550e+0,
                                      4.63033784615654529590e+0, 1.42343711074968357734e+0};
inline constexpr double kNearBottom[] = {
    1.05075007164441684324e-9, 5.47593808499534494600e-4, 1.51986665636164571966e-2, 1.48103976427480074590e-1,
    6.89767334985100004550e-1, 1.67638483018380384940e+0, 2.05319162663775882187e+0, 1.0};
inline constexpr double kFarTop[] = {2.01033439929228813265e-7, 2.71155556874348757815e-5, 1.24266094738807843860e-3,
                                     2.65321895265761230930e-2, 2.96560571828504891230e-1, 1.78482653991729133580e+0,
                                     5.46378491116411436990e+0, 6.65790464350110377720e+0};
inline constexpr double kFarBottom[] = {
    2.04426310338993978564e-15, 1.42151175831644588870e-7, 1.84631831751005468180e-5, 7.86869131145613259100e-4,
    1.48753612908506148525e-2,  1.36929880922735805310e-1, 5.99832206555887937690e-1, 1.0};
// 2 artanh(s) = 2 s + s (2/3 s^2 + 2/5 s^4 + ...)
inline constexpr double kLogSeries[] = {2.0 / 19, 2.0 / 17, 2.0 / 15, 2.0 / 13, 2.0 / 11,
                                        2.0 / 9,  2.0 / 7,  2.0 / 5,  2.0 / 3};

}  // namespace hepgen::as241
