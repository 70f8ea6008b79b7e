#include <algorithm>

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
    const Sample<T> sx{x.data(), weighted ? w.data() : nullptr, n, d},
        sy{y.data(), weighted ? v.data() : nullptr, m, d};
    const KernelOptions options{{widths.data(), 1}, false, Grouping::automatic, threads};
    const double tolerance = pick<T>(1e-5, 1e-12), Sw = sum(W), Sv = sum(V);

    const Sums rows = brute(X, std::vector<double>(n, 1.0), Y, V, widths);
    std::vector<T> got(n), slope(n * d);
    gaussian_sums<T>({x.data(), nullptr, n, d}, sy, options, {got.data(), slope.data()});
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
    const double value = mmd2<T>(sx, sy, options, c, std::nullopt, {ox.data(), oy.data(), ow.data(), ov.data()});
    check_close(value, of_xx * xx.total + of_yy * yy.total + cross * xy.total, tolerance, name<T>("mmd2"));
    check_close(ox, combine(2 * of_xx, xx.points, cross, xy.points), tolerance, name<T>("mmd2 gradient of x"));
    check_close(oy, combine(2 * of_yy, yy.points, cross, yx.points), tolerance, name<T>("mmd2 gradient of y"));
    check_close(ow, gw, tolerance, name<T>("mmd2 gradient of the weights of x"));
    check_close(ov, gv, tolerance, name<T>("mmd2 gradient of the weights of y"));
    const double mean = kernel_mean<T>(sy, options);
    check_close(mean, of_yy * yy.total, tolerance, name<T>("kernel_mean"));
    check_close(mmd2<T>(sx, sy, options, c, mean, {}), value, tolerance, name<T>("mmd2 with a known mean"));
}

// Two proportional bandwidths and a third, joint and one feature at a time, on clusters that lie apart.
template <class T>
void test_parts(Grouping grouping, bool per_feature, int threads) {
    constexpr int d = 3;
    const std::size_t n = 391, m = 260;
    Random random{5};
    auto x = random.normals<T>(n * d), y = random.normals<T>(m * d);
    for (std::size_t i = 0; i < n * d; ++i) x[i] += T(40 * (i / d % 3));
    for (std::size_t j = 0; j < m * d; ++j) y[j] += T(40 * (j / d % 4));
    const std::vector<double> sigmas{0.5, 1, 2, 1.5, 3, 6, 1, 1, 1};
    const auto X = to_double(x), Y = to_double(y);
    const std::vector<double> ones(std::max(n, m), 1.0), of_x(ones.begin(), ones.begin() + n),
        of_y(ones.begin(), ones.begin() + m);
    double want = 0;
    std::vector<double> slope(n * d);
    for (int s = 0; s < 3; ++s) {
        std::vector<double> sigma(sigmas.begin() + s * d, sigmas.begin() + (s + 1) * d);
        for (int f = 0; f < (per_feature ? d : 1); ++f) {
            std::vector<double> widths = sigma;
            // an infinite bandwidth takes a feature out of the kernel
            for (int g = 0; per_feature && g < d; ++g) widths[g] = g == f ? sigma[g] : 1e300;
            const double share = 1.0 / (3 * (per_feature ? d : 1));
            const Sums xx = brute(X, of_x, X, of_x, widths), yy = brute(Y, of_y, Y, of_y, widths);
            const Sums xy = brute(X, of_x, Y, of_y, widths);
            want += share * (xx.total / (n * n) + yy.total / (m * m) - 2 * xy.total / (n * m));
            slope = combine(1, slope, share, combine(2.0 / (n * n), xx.points, -2.0 / (n * m), xy.points));
        }
    }
    const KernelOptions options{{sigmas.data(), 3}, per_feature, grouping, threads};
    std::vector<T> got(n * d);
    const double value = mmd2<T>({x.data(), nullptr, n, d}, {y.data(), nullptr, m, d}, options, 2.0, std::nullopt,
                                 {got.data(), nullptr, nullptr, nullptr});
    check_close(value, want, pick<T>(1e-5, 1e-12), name<T>("mmd2 of several kernels"));
    check_close(got, slope, pick<T>(1e-5, 1e-12), name<T>("gradient of several kernels"));
}

template <class T>
void test(int threads) {
    for (bool per_feature : {false, true}) {
        for (Grouping grouping : {Grouping::automatic, Grouping::never, Grouping::always}) {
            test_parts<T>(grouping, per_feature, threads);
        }
    }
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
