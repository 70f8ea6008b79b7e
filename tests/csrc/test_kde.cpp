#include <algorithm>

#include "check.hpp"
#include "hepgen/kde.hpp"

namespace hepgen::tests {
namespace {

struct Estimate {
    std::vector<double> density, points, weights;  // (features, points), (rows, features), (rows,)
};

// Plain double loops; the gradients are those of sum(slope * density). Binned: every sample is two, on the bins beside
// it.
Estimate brute(const std::vector<double>& x, const std::vector<double>& w, const std::vector<double>& grid,
               const std::vector<double>& b, const std::vector<double>& slope, bool binned) {
    const std::size_t F = b.size(), G = grid.size(), n = w.size();
    const double root = std::sqrt(2 * std::acos(-1.0)), step = grid[1] - grid[0];
    double total = 0;
    for (double a : w) total += a;
    Estimate out{std::vector<double>(F * G), std::vector<double>(n * F), std::vector<double>(n)};
    for (std::size_t f = 0; f < F; ++f) {
        const auto kernel = [&](double distance) {
            return std::exp(-0.5 * distance * distance / (b[f] * b[f])) / (root * b[f]);
        };
        for (std::size_t i = 0; i < n; ++i) {
            const double at = x[i * F + f], left = grid[0] + step * std::floor((at - grid[0]) / step);
            const double t = (at - left) / step;
            for (std::size_t g = 0; g < G; ++g) {
                const double near = kernel(grid[g] - left), far = kernel(grid[g] - left - step);
                const double exact = kernel(grid[g] - at);
                const double k = binned ? (1 - t) * near + t * far : exact;
                const double dk = binned ? (far - near) / step : exact * (grid[g] - at) / (b[f] * b[f]);
                out.density[f * G + g] += w[i] * k / total;
                out.points[i * F + f] += slope[f * G + g] * w[i] * dk / total;
                out.weights[i] += slope[f * G + g] * k / total;
            }
        }
    }
    double correction = 0;
    for (std::size_t k = 0; k < F * G; ++k) correction += slope[k] * out.density[k] / total;
    for (double& g : out.weights) g -= correction;
    return out;
}

template <class T>
void test_size(std::size_t n, std::size_t F, std::size_t G, double bandwidth, bool weighted, int threads) {
    Random random{unsigned(n + 7 * F + 3 * G)};
    const auto x = random.normals<T>(n * F);
    auto w = random.normals<T>(n);
    for (T& a : w) a = weighted ? std::abs(a) + T(0.5) : T(1);
    const auto slope = random.normals<T>(F * G);
    std::vector<double> b, grid;
    for (std::size_t f = 0; f < F; ++f) b.push_back(bandwidth * (1 + 0.1 * double(f)));
    for (std::size_t g = 0; g < G; ++g) grid.push_back(-6 + 12.0 * double(g) / double(G - 1));
    const KdeInput<T> in{x.data(), weighted ? w.data() : nullptr, n, F, grid.data(), G, true, b.data()};
    const double peak = 0.4 / bandwidth;
    for (bool binned : {false, true}) {
        const Estimate want = brute(to_double(x), to_double(w), grid, b, to_double(slope), binned);
        const std::string what = name<T>(binned ? "binned kde" : "exact kde");
        std::vector<T> density(F * G), points(n * F), weights(n);
        (binned ? kde_binned<T> : kde_exact<T>)(in, threads, density.data());
        check_close(density, want.density, pick<T>(1e-5, 1e-12) * peak, what);
        (binned ? kde_binned_gradients<T> : kde_exact_gradients<T>)(in, density.data(), slope.data(), threads,
                                                                    {points.data(), weights.data()});
        const double scale = peak * double(G);
        check_close(points, want.points, pick<T>(1e-5, 1e-12) * scale / bandwidth, what + " gradient of samples");
        check_close(weights, want.weights, pick<T>(1e-5, 1e-12) * scale, what + " gradient of weights");
    }
    // the divergence is a sum over the grid, and its slope that sum's
    std::vector<T> density(F * G), outwards(F * G);
    kde_binned<T>(in, threads, density.data());
    const double step = grid[1] - grid[0], target = 1.0 / double(G);
    double want = 0;
    std::vector<double> slopes;
    for (const T value : density) {
        const double mass = step * double(value);
        want += target * std::log(target / std::max(mass, 1e-9)) / double(F);
        slopes.push_back(mass > 1e-9 ? -target / double(value) / double(F) : 0.0);
    }
    const std::vector<double> targets(F * G, target);
    const double got = kde_divergence<T>(in, targets.data(), 1e-9, threads, density.data(), outwards.data());
    check_close(got, want, pick<T>(1e-3, 1e-9), name<T>("kde_divergence"));
    for (std::size_t k = 0; k < slopes.size(); ++k) {
        check_close(outwards[k], slopes[k], pick<T>(1e-3, 1e-9) * (1 + std::abs(slopes[k])),
                    name<T>("kde_divergence slope"));
    }
}

template <class T>
void test(int threads) {
    for (bool weighted : {false, true}) {
        test_size<T>(1, 1, 2, 0.3, weighted, threads);
        test_size<T>(63, 2, 65, 0.2, weighted, threads);
        test_size<T>(130, 3, 40, 1.5, weighted, threads);
        test_size<T>(17000, 2, 50, 0.3, weighted, threads);  // enough samples for threads
    }
}

}  // namespace

void test_kde(int threads) {
    test<float>(threads);
    test<double>(threads);
}

}  // namespace hepgen::tests
