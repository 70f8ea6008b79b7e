#include <algorithm>

#include "check.hpp"
#include "hepgen/ecd.hpp"

namespace hepgen::tests {
namespace {

template <class T>
struct System {
    std::vector<std::vector<T>> p, v, g;
    std::vector<double> scale, decay;

    System(const std::vector<std::size_t>& sizes, bool moving, bool decays, unsigned seed) {
        Random random(seed);
        for (std::size_t k = 0; k < sizes.size(); ++k) {
            p.push_back(random.normals<T>(sizes[k]));
            v.push_back(random.normals<T>(sizes[k], moving ? 0.1 : 0.0));
            g.push_back(random.normals<T>(sizes[k]));
            scale.push_back(k == 1 ? 0.5 : 1.0);
            decay.push_back(decays ? 0.01 * double(k) : 0.0);
        }
    }

    EcdOutcome step(double loss, const EcdRule& rule, int threads) {
        std::vector<EcdTensor<T>> tensors;
        for (std::size_t k = 0; k < p.size(); ++k) {
            tensors.push_back({p[k].data(), v[k].data(), g[k].data(), p[k].size(), scale[k], decay[k]});
        }
        double full = 0;
        return ecd_step<T>(tensors, loss, rule, threads, &full);
    }
};

// The rule of ecd.hpp, word by word, in double.
template <class T>
void by_hand(const System<T>& s, double loss, const EcdRule& r, std::vector<double>& p, std::vector<double>& v) {
    std::vector<double> g, scale;
    std::vector<std::size_t> begin{0};
    double above = loss - r.f0;
    for (std::size_t k = 0; k < s.p.size(); ++k) {
        for (std::size_t i = 0; i < s.p[k].size(); ++i) {
            const double theta = s.p[k][i];
            p.push_back(theta);
            v.push_back(s.v[k][i]);
            g.push_back(s.scale[k] * (s.g[k][i] + s.decay[k] * theta));
            scale.push_back(s.scale[k]);
            above += 0.5 * s.decay[k] * theta * theta;
        }
        begin.push_back(p.size());
    }
    const double d = double(p.size());
    const auto dot = [](const double* a, const double* b, std::size_t n) {
        double sum = 0;
        for (std::size_t i = 0; i < n; ++i) sum += a[i] * b[i];
        return sum;
    };
    if (dot(v.data(), v.data(), v.size()) == 0)
        std::transform(g.begin(), g.end(), v.begin(), [](double x) { return -x; });
    const double speed = std::pow(above, -r.eta * d * (r.q - 1) / (2 * (d - r.q)));
    const double norm = std::sqrt(dot(v.data(), v.data(), v.size()));
    for (double& x : v) x *= speed / norm;
    const double force = r.time_step * r.eta * d / (2 * (d - r.q) * above);
    const double all = dot(v.data(), g.data(), v.size());
    for (std::size_t k = 0; k + 1 < begin.size(); ++k) {
        const std::size_t n = begin[k + 1] - begin[k];
        const double along = r.per_tensor ? dot(&v[begin[k]], &g[begin[k]], n) : all;
        for (std::size_t i = begin[k]; i < begin[k + 1]; ++i) {
            v[i] -= force * (speed * speed * g[i] + (r.q - 2) * along * v[i]);
        }
    }
    const double after = std::sqrt(dot(v.data(), v.data(), v.size()));
    std::size_t i = 0;
    for (std::size_t k = 0; k < s.p.size(); ++k) {
        std::vector<T> z(s.p[k].size());
        ecd_noise<T>(r.seed, r.step, k, z.size(), z.data());
        for (std::size_t j = 0; j < z.size(); ++j, ++i) {
            p[i] += r.time_step * scale[i] * v[i];
            v[i] = v[i] / after + r.nu * double(z[j]);
        }
    }
}

template <class T>
std::vector<double> joined(const std::vector<std::vector<T>>& parts) {
    std::vector<double> out;
    for (const auto& part : parts) out.insert(out.end(), part.begin(), part.end());
    return out;
}

template <class T>
void compare(const std::vector<std::size_t>& sizes, const EcdRule& rule, bool moving, bool decays, int threads) {
    System<T> system(sizes, moving, decays, unsigned(sizes.size()));
    std::vector<double> p, v;
    by_hand(system, 0.3, rule, p, v);
    check(system.step(0.3, rule, threads) == EcdOutcome::moved, "ecd: refused");
    const double tolerance = pick<T>(1e-5, 1e-12);
    check_close(joined(system.p), p, tolerance, name<T>("ecd parameters"));
    check_close(joined(system.v), v, tolerance, name<T>("ecd velocities"));
}

template <class T>
void test(int threads) {
    const std::vector<std::vector<std::size_t>> shapes{
        {3}, {1, 2}, {7, 0, 33, 129}, {1025, 64, 4099}, {70'001, 100'003, 17}};
    for (const auto& sizes : shapes) {
        for (double q : {1.0, 0.5, 2.0}) {
            for (int options = 0; options < 8; ++options) {
                const double eta = q == 1 ? 20.0 : 1e-3, nu = options & 1 ? 0.02 : 0.0;
                if (sizes.back() == 17 && (q != 1 || options > 1)) continue;  // once is enough for what is long
                const EcdRule rule{0.05, eta, -0.7, nu, q, bool(options & 2), 5, 9};
                compare<T>(sizes, rule, options & 4, options & 1, threads);
            }
        }
    }
    const EcdRule rule{0.05, 1.0, 0.5, 0.0, 1.0, false, 5, 9};
    System<T> system({200'000, 3}, true, false, 1);
    const auto before = joined(system.p);
    check(system.step(0.3, rule, threads) == EcdOutcome::loss_too_low, "ecd: a loss below F0");
    check(system.step(NAN, rule, threads) == EcdOutcome::not_finite, "ecd: a loss that is not a number");
    system.g[1][2] = T(INFINITY);
    check(system.step(0.9, rule, threads) == EcdOutcome::not_finite, "ecd: an infinite gradient");
    check(joined(system.p) == before, "ecd: a refused step changed something");
}

}  // namespace

void test_ecd(int threads) {
    test<float>(threads);
    test<double>(threads);
}

}  // namespace hepgen::tests
