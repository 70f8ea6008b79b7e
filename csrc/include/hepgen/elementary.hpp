// exp, exp - 1 and tanh over the whole range, in vectors, to about one unit in the last place.
//
// exp(x) = 2^n exp(r) with n the nearest integer to x / ln 2 and r = x - n ln 2 (Cody and Waite: ln 2 in two parts).
// exp(r) - 1 is a polynomial on abs(r) <= ln 2 / 2; overflow gives inf, underflow passes through the denormals to 0,
// NaN stays NaN. Inside abs(x) < 0.625 tanh is x + x^3 P(x^2) (float) or a rational function (double), after
// Cody and Waite 1980; outside it is 1 - 2 / (exp(2 abs(x)) + 1).
#pragma once

#include "hepgen/simd.hpp"

namespace hepgen::HEPGEN_ISA {

template <class T>
struct ExpFormat;
template <>
struct ExpFormat<float> {
    static constexpr float lowest = -104.0f, highest = 89.0f;
    static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
    static constexpr float to_integer = 12582912.0f;  // 1.5 * 2^23: adding it rounds, its low bits hold n
    static constexpr std::int32_t exponent_bias = 127, mantissa_bits = 23;
};
template <>
struct ExpFormat<double> {
    static constexpr double lowest = -746.0, highest = 710.0;
    static constexpr double ln2_high = 6.93145751953125e-1, ln2_low = 1.42860682030941723212e-6;
    static constexpr double to_integer = 6755399441055744.0;  // 1.5 * 2^52
    static constexpr std::int64_t exponent_bias = 1023, mantissa_bits = 52;
};

HEPGEN_INLINE Vec<float> expm1_fraction(Vec<float> r) {
    Vec<float> p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    return p * (r * r) + r;
}

HEPGEN_INLINE Vec<double> expm1_fraction(Vec<double> r) {
    Vec<double> p = r * (1.0 / 6227020800.0) + 1.0 / 479001600.0;
    p = p * r + 1.0 / 39916800.0;
    p = p * r + 1.0 / 3628800.0;
    p = p * r + 1.0 / 362880.0;
    p = p * r + 1.0 / 40320.0;
    p = p * r + 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    return p * (r * r) + r;
}

// NaN stays in both.
template <class T>
HEPGEN_INLINE Vec<T> not_below(T low, Vec<T> x) {
    return x < low ? broadcast<T>(low) : x;
}

template <class T>
HEPGEN_INLINE Vec<T> not_above(T high, Vec<T> x) {
    return x > high ? broadcast<T>(high) : x;
}

// 2^n for whole abs(n) < 127 (float) or 1023 (double); n comes shifted by to_integer.
template <class T>
HEPGEN_INLINE Vec<T> power_of_two(Vec<T> shifted) {
    using Ints = typename Lanes<T>::Ints;
    return (Vec<T>)(((Ints)shifted + ExpFormat<T>::exponent_bias) << ExpFormat<T>::mantissa_bits);
}

// x = n ln 2 + r; 2^n comes as two factors, so that n may lie outside the exponents a normal number has.
template <class T>
struct Reduced {
    Vec<T> r, first, second;
};

template <class T>
HEPGEN_INLINE Reduced<T> reduce(Vec<T> x) {
    constexpr T log2_e = T(1.4426950408889634074);
    constexpr T to_integer = ExpFormat<T>::to_integer;
    x = not_above<T>(ExpFormat<T>::highest, not_below<T>(ExpFormat<T>::lowest, x));
    const Vec<T> n = (x * log2_e + to_integer) - to_integer;
    const Vec<T> half = n * T(0.5) + to_integer;
    const Vec<T> rest = (n - (half - to_integer)) + to_integer;
    const Vec<T> r = (x - n * ExpFormat<T>::ln2_high) - n * ExpFormat<T>::ln2_low;
    return {r, power_of_two<T>(half), power_of_two<T>(rest)};
}

template <class T>
HEPGEN_INLINE Vec<T> exp(Vec<T> x) {
    const Reduced<T> a = reduce<T>(x);
    return (expm1_fraction(a.r) + T(1)) * a.first * a.second;
}

// exp(x) - 1 for x <= 0 or NaN.
template <class T>
HEPGEN_INLINE Vec<T> expm1_nonpositive(Vec<T> x) {
    const Reduced<T> a = reduce<T>(not_below<T>(T(-50), x));
    const Vec<T> scale = a.first * a.second;
    return expm1_fraction(a.r) * scale + (scale - T(1));
}

HEPGEN_INLINE Vec<float> tanh_near_zero(Vec<float> x) {
    const Vec<float> z = x * x;
    Vec<float> p = z * -5.70498872745e-3f + 2.06390887954e-2f;
    p = p * z - 5.37397155531e-2f;
    p = p * z + 1.33314422036e-1f;
    p = p * z - 3.33332819422e-1f;
    return p * z * x + x;
}

HEPGEN_INLINE Vec<double> tanh_near_zero(Vec<double> x) {
    const Vec<double> z = x * x;
    const Vec<double> p = (z * -9.64399179425052238628e-1 - 9.92877231001918586564e1) * z - 1.61468768441708447952e3;
    const Vec<double> q =
        ((z + 1.12811678491632931402e2) * z + 2.23548839060100448583e3) * z + 4.84406305325125486048e3;
    return p / q * z * x + x;
}

template <class T>
HEPGEN_INLINE Vec<T> tanh(Vec<T> x) {
    const Vec<T> size = x < T(0) ? -x : x;
    const Vec<T> far = T(1) - T(2) / (exp<T>(size + size) + T(1));
    const Vec<T> away = x < T(0) ? -far : far;
    return size < T(0.625) ? tanh_near_zero(x) : away;
}

}  // namespace hepgen::HEPGEN_ISA
