#include "check.hpp"
#include "hepgen/mmd.hpp"

namespace hepgen::tests {
namespace {

// sum_j v_j k_ij for every i, their sum weighted with w, and its gradient with respect to x_i with y held.
struct Sums {
    double total = 0;
    std::vector<double> rows, points;
};

// Plain double loops over all pairs.
Sums brute(const std::vector<double>& x, const std::vector<double>& w, const std::vector<double>& y,
           const std::vector<double>& v, const std::vector<double>& sigma) {
    const std::size_t d = sigma.size();
    Sums out{0, std::vector<double>(w.size()), std::vector<double>(x.size())};
    for (std::size_t i = 0; i < w.size(); ++i) {
        for (std::size_t j = 0; j < v.size(); ++j) {
            double square = 0;
            for (std::size_t f = 0; f < d; ++f) {
                const double difference = x[i * d + f] - y[j * d + f];
                square += difference * difference / sigma[f];
            }
            const double k = v[j] * std::exp(-square);
            out.rows[i] += k;
            for (std::size_t f = 0; f < d; ++f) {
                out.points[i * d + f] -= w[i] * k * 2 * (x[i * d + f] - y[j * d + f]) / sigma[f];
            }
        }
        out.total += w[i] * out.rows[i];
    }
    return out;
}

// a * x + b * y
std::vector<double> combine(double a, const std::vector<double>& x, double b, const std::vector<double>& y) {
    std::vector<double> out(x.size());
    for (std::size_t i = 0; i < x.size(); ++i) out[i] = a * x[i] + b * y[i];
    return out;
}

double sum(const std::vector<double>& x) {
    double total = 0;
    for (double a : x) total += a;
    return total;
}

template <class T>
void test_size(std::size_t n, std::size_t m, int d, bool weighted, int threads) {
    Random random{unsigned(n * 7 + m * 3 + d)};
    const auto x = random.normals<T>(n * d), y = random.normals<T>(m * d, 1.2);
    auto w = random.normals<T>(n), v = random.normals<T>(m);
    for (T& a : w) a = weighted ? a + T(2) : T(1);
    for (T& a : v) a = weighted ? a + T(2) : T(1);
    std::vector<double> widths;
    for (int f = 0; f < d; ++f) widths.push_back(0.5 + 0.3 * f + d);
    const auto X = to_double(x), Y = to_double(y), W = to_double(w), V = to_double(v);
    const Sample<T> sx{x.data(), weighted ? w.data() : nullptr, n}, sy{y.data(), weighted ? v.data() : nullptr, m};
    const double* sigma = widths.data();
    const double tolerance = pick<T>(1e-5, 1e-12), Sw = sum(W), Sv = sum(V);

    const Sums rows = brute(X, std::vector<double>(n, 1.0), Y, V, widths);
    std::vector<T> got(n), slope(n * d);
    gaussian_sums<T>({x.data(), nullptr, n}, sy, sigma, d, threads, {got.data(), slope.data()});
    check_close(got, rows.rows, tolerance * double(m), name<T>("gaussian_sums"));
    check_close(slope, rows.points, tolerance * double(m), name<T>("gaussian_sums gradient"));

    // xx / Sw^2 + yy / Sv^2 - c xy / (Sw Sv)
    const double c = 1.5, cross = -c / (Sw * Sv), of_xx = 1 / (Sw * Sw), of_yy = 1 / (Sv * Sv);
    const Sums xx = brute(X, W, X, W, widths), yy = brute(Y, V, Y, V, widths);
    const Sums xy = brute(X, W, Y, V, widths), yx = brute(Y, V, X, W, widths);
    auto gw = combine(2 * of_xx, xx.rows, cross, xy.rows), gv = combine(2 * of_yy, yy.rows, cross, yx.rows);
    for (double& g : gw) g -= (2 * of_xx * xx.total + cross * xy.total) / Sw;  // the sums of weights change too
    for (double& g : gv) g -= (2 * of_yy * yy.total + cross * xy.total) / Sv;
    std::vector<T> ox(n * d), oy(m * d), ow(n), ov(m);
    const double value = mmd2<T>(sx, sy, sigma, d, c, nullptr, threads, {ox.data(), oy.data(), ow.data(), ov.data()});
    check_close(value, of_xx * xx.total + of_yy * yy.total + cross * xy.total, tolerance, name<T>("mmd2"));
    check_close(ox, combine(2 * of_xx, xx.points, cross, xy.points), tolerance, name<T>("mmd2 gradient of x"));
    check_close(oy, combine(2 * of_yy, yy.points, cross, yx.points), tolerance, name<T>("mmd2 gradient of y"));
    check_close(ow, gw, tolerance, name<T>("mmd2 gradient of the weights of x"));
    check_close(ov, gv, tolerance, name<T>("mmd2 gradient of the weights of y"));
    const double mean = kernel_mean<T>(sy, sigma, d, threads);
    check_close(mean, of_yy * yy.total, tolerance, name<T>("kernel_mean"));
    check_close(mmd2<T>(sx, sy, sigma, d, c, &mean, threads, {}), value, tolerance, name<T>("mmd2 with a known mean"));
}

template <class T>
void test(int threads) {
    for (bool weighted : {false, true}) {
        for (std::size_t n : {1, 2, 63, 65, 131}) {
            for (int d : {1, 2, 6, 17}) test_size<T>(n, 130 - n / 2, d, weighted, threads);
        }
        test_size<T>(3, 64, 64, weighted, threads);
        test_size<T>(700, 641, 3, weighted, threads);  // enough pairs for threads
    }
}

}  // namespace

void test_mmd(int threads) {
    test<float>(threads);
    test<double>(threads);
}

}  // namespace hepgen::tests
