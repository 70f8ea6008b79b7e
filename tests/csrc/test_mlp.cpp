#include <algorithm>
#include <utility>

#include "check.hpp"
#include "hepgen/mlp.hpp"

namespace hepgen::tests {
namespace {

// A network with random parameters, all of them in one array: weight and bias of every layer.
template <class T>
struct Network {
    MlpShape shape;
    std::vector<T> flat;

    Network(const MlpShape& given, unsigned seed) : shape(given) {
        std::size_t total = 0;
        for (int l = 0; l < shape.layers(); ++l) total += std::size_t(shape.widths[l] + 1) * shape.widths[l + 1];
        flat = Random(seed).normals<T>(total, 0.4);
    }

    template <class U>
    MlpLayers<U> layers(U* at) const {
        MlpLayers<U> out;
        for (int l = 0; l < shape.layers(); ++l) {
            out.weights.push_back(at);
            at += shape.widths[l] * shape.widths[l + 1];
            out.biases.push_back(at);
            at += shape.widths[l + 1];
        }
        return out;
    }
};

double activate(Activation kind, double x) {
    if (kind == Activation::tanh) return std::tanh(x);
    if (kind == Activation::relu) return std::max(x, 0.0);
    return x > 0 ? x : std::expm1(x);
}

double slope_of(Activation kind, double x) {
    if (kind == Activation::tanh) return 1 - std::tanh(x) * std::tanh(x);
    if (kind == Activation::relu) return x > 0 ? 1 : 0;
    return x > 0 ? 1 : std::exp(x);
}

// One event forth and back in double: its outputs; the gradients of sum(a * outputs) are added.
std::vector<double> by_hand(const MlpShape& shape, const std::vector<double>& flat, std::vector<double> x,
                            const double* a, double* to_x, std::vector<double>& to_flat) {
    const auto joined = [&](int layer) { return shape.shortcuts && layer > 2 && layer % 2 && layer < shape.layers(); };
    const auto output = [&](double sum) {
        return shape.output == MlpOutput::sigmoid ? 1 / (1 + std::exp(-sum))
               : shape.output == MlpOutput::tanh  ? std::tanh(sum)
                                                  : sum;
    };
    const auto output_slope = [&](double y) {
        return shape.output == MlpOutput::sigmoid ? y * (1 - y) : shape.output == MlpOutput::tanh ? 1 - y * y : 1;
    };
    std::vector<std::vector<double>> seen{x}, sums;
    std::vector<std::size_t> begin;
    std::size_t at = 0;
    for (int l = 0; l < shape.layers(); ++l) {
        const int in = shape.widths[l], units = shape.widths[l + 1];
        begin.push_back(at);
        std::vector<double> sum(units), value(units);
        for (int u = 0; u < units; ++u) {
            sum[u] = flat[at + std::size_t(in) * units + u];
            for (int k = 0; k < in; ++k) sum[u] += flat[at + u * in + k] * seen.back()[k];
            if (joined(l + 1)) sum[u] += seen[l - 1][u];
            value[u] = l + 1 < shape.layers() ? activate(shape.activation, sum[u]) : output(sum[u]);
        }
        at += std::size_t(in + 1) * units;
        sums.push_back(sum);
        seen.push_back(value);
    }
    std::vector<double> back(a, a + shape.widths.back()), around;
    for (int l = shape.layers() - 1; l >= 0; --l) {
        const int in = shape.widths[l], units = shape.widths[l + 1];
        std::vector<double> below(in), here(units);
        for (int u = 0; u < units; ++u) {
            const bool last = l + 1 == shape.layers();
            const double slope = last ? output_slope(seen[l + 1][u]) : slope_of(shape.activation, sums[l][u]);
            const double g = (back[u] + (joined(l + 3) ? around[u] : 0)) * slope;
            here[u] = g;
            to_flat[begin[l] + std::size_t(in) * units + u] += g;
            for (int k = 0; k < in; ++k) {
                to_flat[begin[l] + u * in + k] += g * seen[l][k];
                below[k] += g * flat[begin[l] + u * in + k];
            }
        }
        back = below;
        if (joined(l + 1)) around = here;
    }
    std::copy(back.begin(), back.end(), to_x);
    return seen.back();
}

template <class T>
void test_shape(const MlpShape& shape, std::size_t n, int threads) {
    const Network<T> network(shape, 3);
    Random random{unsigned(n)};
    const int inputs = shape.widths.front(), outputs = shape.widths.back();
    const auto x = random.normals<T>(n * inputs), a = random.normals<T>(n * outputs);
    const auto A = to_double(a), flat = to_double(network.flat);
    std::vector<double> want, want_x(x.size()), want_flat(flat.size());
    for (std::size_t i = 0; i < n; ++i) {
        const std::vector<double> row(x.begin() + i * inputs, x.begin() + (i + 1) * inputs);
        const auto out = by_hand(shape, flat, row, A.data() + i * outputs, want_x.data() + i * inputs, want_flat);
        want.insert(want.end(), out.begin(), out.end());
    }
    struct Outcome {
        std::vector<T> out, to_x, to_flat;
    };
    const auto run = [&](int workers) {
        Outcome o{std::vector<T>(n * outputs), std::vector<T>(x.size()), std::vector<T>(flat.size())};
        std::vector<T> record(mlp_record_size(shape, 1, n, sizeof(T)));
        const std::vector<MlpMember<T>> members{{network.layers(network.flat.data()), {x.data(), inputs, 1}, 0}};
        mlp_apply<T>(shape, members, 0, n, workers, o.out.data(), record.data());
        mlp_backward<T>(shape, members, 0, n, record.data(), {{a.data(), outputs, 1}}, workers, o.to_x.data(),
                        {network.layers(o.to_flat.data())});
        return o;
    };
    const Outcome got = run(threads), serial = run(1);
    check(got.out == serial.out && got.to_x == serial.to_x && got.to_flat == serial.to_flat,
          "mlp: the answer depends on the threads");
    const double tolerance = pick<T>(2e-4, 1e-11);
    check_close(got.out, want, tolerance, name<T>("mlp"));
    check_close(got.to_x, want_x, tolerance, name<T>("mlp gradient of events"));
    check_close(got.to_flat, want_flat, tolerance * double(n + 1), name<T>("mlp gradient of weights"));
}

// Members of an ensemble with dropout: as each alone, whatever the threads.
template <class T>
void test_ensemble(Activation activation, int threads) {
    const MlpShape shape{{2, 40, 33, 1}, activation, MlpOutput::linear};
    const std::size_t count = 5, n = 130;
    const std::uint32_t dropped = mlp_dropout(0.2);
    std::vector<Network<T>> networks;
    for (unsigned e = 0; e < count; ++e) networks.emplace_back(shape, e);
    const std::size_t size = networks[0].flat.size(), kept = mlp_record_size(shape, 1, n, sizeof(T));
    const auto x = Random(1).normals<T>(count * n * 2), a = Random(2).normals<T>(count * n);
    std::vector<MlpMember<T>> members;
    std::vector<Rows<const T>> gradients;
    for (std::size_t e = 0; e < count; ++e) {
        members.push_back(
            {networks[e].layers(std::as_const(networks[e].flat).data()), {x.data() + e * n * 2, 2, 1}, 7 + e});
        gradients.push_back({a.data() + e * n, 1, 1});
    }
    struct Outcome {
        std::vector<T> out, to_x, to_flat;
    };
    const auto run = [&](std::size_t first, std::size_t last, int workers) {
        const std::vector<MlpMember<T>> some(members.begin() + first, members.begin() + last);
        const std::size_t number = last - first;
        Outcome o{std::vector<T>(number * n), std::vector<T>(number * n * 2), std::vector<T>(number * size)};
        std::vector<T> record(mlp_record_size(shape, number, n, sizeof(T)));
        check(record.size() == number * kept, "mlp: the records of the members do not add up");
        std::vector<MlpLayers<T>> to;
        for (std::size_t e = 0; e < number; ++e) to.push_back(networks[0].layers(o.to_flat.data() + e * size));
        mlp_apply<T>(shape, some, dropped, n, workers, o.out.data(), record.data());
        mlp_backward<T>(shape, some, dropped, n, record.data(), {gradients.begin() + first, gradients.begin() + last},
                        workers, o.to_x.data(), to);
        return o;
    };
    const Outcome all = run(0, count, threads), serial = run(0, count, 1);
    check(all.out == serial.out && all.to_x == serial.to_x && all.to_flat == serial.to_flat,
          "mlp ensemble: the answer depends on the threads");
    for (std::size_t e = 0; e < count; ++e) {
        const Outcome one = run(e, e + 1, 1);
        check(std::equal(one.out.begin(), one.out.end(), all.out.begin() + e * n) &&
                  std::equal(one.to_flat.begin(), one.to_flat.end(), all.to_flat.begin() + e * size),
              "mlp ensemble: a member's answer depends on the others");
    }
}

}  // namespace

void test_mlp(int threads) {
    for (Activation kind : {Activation::relu, Activation::tanh, Activation::elu}) {
        test_ensemble<float>(kind, threads);
        test_ensemble<double>(kind, threads);
    }
    const std::vector<MlpShape> shapes{
        {{1, 1}, Activation::relu, MlpOutput::linear},
        {{3, 5, 2}, Activation::tanh, MlpOutput::sigmoid},
        {{6, 64, 33, 1}, Activation::elu, MlpOutput::sigmoid},
        {{20, 17, 17, 17, 26}, Activation::relu, MlpOutput::linear},
        {{20, 17, 17, 17, 26}, Activation::relu, MlpOutput::tanh, true},
        {{3, 33, 20, 33, 9, 33, 40, 2}, Activation::elu, MlpOutput::tanh, true},
        {{2, 8, 8, 8, 8, 8, 1}, Activation::tanh, MlpOutput::linear, true},
    };
    for (const MlpShape& shape : shapes) {
        for (std::size_t n : {0, 1, 63, 65, 700}) {
            test_shape<float>(shape, n, threads);
            test_shape<double>(shape, n, threads);
        }
    }
}

}  // namespace hepgen::tests
