#include <algorithm>

#include "check.hpp"
#include "hepgen/maf.hpp"

namespace hepgen::tests {
namespace {

struct Setting {
    int features, context, blocks;
    std::vector<int> hidden;
    Activation activation;
};

// A flow with random parameters, all of them in one array.
template <class T>
struct Flow {
    std::vector<std::int64_t> orders;
    MafShape shape;
    std::vector<T> flat;

    Flow(const Setting& s, unsigned seed) {
        for (int b = 0; b < s.blocks; ++b) {
            for (int j = 0; j < s.features; ++j) orders.push_back(b % 2 ? s.features - 1 - j : (j + b) % s.features);
        }
        shape = {s.features, s.context, s.blocks, s.hidden, s.activation, 3.0, orders.data()};
        flat = Random(seed).normals<T>(size() * std::size_t(s.blocks), 0.4);
    }

    int units(std::size_t layer) const {
        return layer < shape.hidden.size() ? shape.hidden[layer] : kMapOutputs * shape.features;
    }
    int seen(std::size_t layer) const { return layer ? shape.hidden[layer - 1] : shape.features; }
    std::size_t layers() const { return shape.hidden.size() + 1; }
    std::size_t size() const {
        std::size_t total = std::size_t(shape.context) * units(0);
        for (std::size_t layer = 0; layer < layers(); ++layer) total += std::size_t(units(layer)) * (seen(layer) + 1);
        return total;
    }

    template <class U>
    std::vector<MafBlock<U>> blocks(U* at) const {
        std::vector<MafBlock<U>> out;
        for (int b = 0; b < shape.blocks; ++b) {
            MafBlock<U> block{};
            for (std::size_t layer = 0; layer < layers(); ++layer) {
                block.weights.push_back(at);
                at += units(layer) * seen(layer);
                block.biases.push_back(at);
                at += units(layer);
                if (layer == 0 && shape.context) {
                    block.context_weight = at;
                    at += units(0) * shape.context;
                }
            }
            out.push_back(block);
        }
        return out;
    }

    // Columns that a unit sees: below its degree, for the outputs of column j those before j.
    int degree(std::size_t layer, int unit) const {
        if (layer + 1 == layers()) return unit / kMapOutputs;
        const int lowest = shape.context || shape.features == 1 ? 0 : 1;
        return lowest + unit * (shape.features - lowest) / units(layer);
    }
};

double activate(Activation kind, double x) {
    if (kind == Activation::tanh) return std::tanh(x);
    if (kind == Activation::relu) return std::max(x, 0.0);
    return x > 0 ? x : std::expm1(x);
}

// One event towards the base, in double, masks written out.
template <class T>
void by_hand(const Flow<T>& flow, std::vector<double>& x, const T* context, double& log_det) {
    const auto blocks = flow.blocks(flow.flat.data());
    const int d = flow.shape.features;
    for (int b = 0; b < flow.shape.blocks; ++b) {
        std::vector<double> in(d), values;
        for (int j = 0; j < d; ++j) in[j] = x[flow.orders[b * d + j]];
        values = in;
        for (std::size_t layer = 0; layer < flow.layers(); ++layer) {
            std::vector<double> next(flow.units(layer));
            for (int u = 0; u < flow.units(layer); ++u) {
                double sum = blocks[b].biases[layer][u];
                for (int s = 0; s < flow.seen(layer); ++s) {
                    const int below = layer ? flow.degree(layer - 1, s) : s + 1;
                    if (below <= flow.degree(layer, u)) {
                        sum += double(blocks[b].weights[layer][u * flow.seen(layer) + s]) * values[s];
                    }
                }
                for (int c = 0; layer == 0 && c < flow.shape.context; ++c) {
                    sum += double(blocks[b].context_weight[u * flow.shape.context + c]) * double(context[c]);
                }
                next[u] = layer + 1 < flow.layers() ? activate(flow.shape.activation, sum) : sum;
            }
            values = next;
        }
        for (int j = 0; j < d; ++j) {
            const double raw = values[2 * j + 1], a = raw / (1 + std::abs(raw) / flow.shape.bound);
            x[flow.orders[b * d + j]] = (in[j] - values[2 * j]) * std::exp(-a);
            log_det -= a;
        }
    }
}

template <class T>
Rows<const T> rows(const std::vector<T>& data, int columns) {
    return {data.data(), columns, 1};
}

template <class T>
struct Outcome {
    std::vector<T> out, log_det, record;
};

template <class T>
Outcome<T> apply(Direction direction, const Flow<T>& flow, const std::vector<T>& in, const std::vector<T>& context,
                 std::size_t n, int threads) {
    Outcome<T> o{std::vector<T>(n * flow.shape.features), std::vector<T>(n),
                 std::vector<T>(maf_record_size(flow.shape, n, sizeof(T)))};
    maf_apply<T>(direction, flow.shape, flow.blocks(flow.flat.data()), n, rows(in, flow.shape.features),
                 rows(context, flow.shape.context), threads, o.out.data(), o.log_det.data(), o.record.data());
    return o;
}

// a . out + b . log_det
template <class T>
double projected(const Outcome<T>& o, const std::vector<T>& a, const std::vector<T>& b) {
    double sum = 0;
    for (std::size_t i = 0; i < a.size(); ++i) sum += double(a[i]) * double(o.out[i]);
    for (std::size_t i = 0; i < b.size(); ++i) sum += double(b[i]) * double(o.log_det[i]);
    return sum;
}

std::vector<double> moved(const std::vector<double>& x, const std::vector<double>& along, double by) {
    std::vector<double> out(x);
    for (std::size_t i = 0; i < x.size(); ++i) out[i] += by * along[i];
    return out;
}

template <class T>
struct Gradients {
    std::vector<T> in, context, weights;
};

template <class T>
Gradients<T> gradients(Direction direction, const Flow<T>& flow, const Outcome<T>& o, const std::vector<T>& context,
                       const std::vector<T>& a, const std::vector<T>& b, std::size_t n, int threads) {
    Gradients<T> g{std::vector<T>(a.size()), std::vector<T>(context.size()), std::vector<T>(flow.flat.size())};
    maf_backward<T>(direction, flow.shape, flow.blocks(flow.flat.data()), n, o.record.data(),
                    rows(context, flow.shape.context), rows(a, flow.shape.features), Rows<const T>{b.data(), 1, 0},
                    threads, g.in.data(), flow.shape.context ? g.context.data() : nullptr,
                    flow.blocks(g.weights.data()));
    return g;
}

// Gradients against differences of the values along one random direction in everything at once.
void check_slope(Direction direction, const Setting& setting, std::size_t n, int threads) {
    Flow<double> flow(setting, 11);
    Random random{unsigned(n) + 5};
    const auto in = random.normals<double>(n * setting.features), context = random.normals<double>(n * setting.context);
    const auto a = random.normals<double>(in.size()), b = random.normals<double>(n);
    const auto outcome = apply(direction, flow, in, context, n, threads);
    const auto g = gradients(direction, flow, outcome, context, a, b, n, threads);
    const auto along_in = random.normals<double>(in.size()), along_context = random.normals<double>(context.size());
    const auto along_weights = random.normals<double>(flow.flat.size());
    double slope = 0, size = 1;
    const auto add = [&](const std::vector<double>& x, const std::vector<double>& along) {
        for (std::size_t i = 0; i < x.size(); ++i) {
            slope += x[i] * along[i];
            size += std::abs(x[i] * along[i]);
        }
    };
    add(g.in, along_in);
    add(g.context, along_context);
    add(g.weights, along_weights);
    const auto value = [&](double step) {
        Flow<double> other(setting, 11);
        other.flat = moved(flow.flat, along_weights, step);
        return projected(apply(direction, other, moved(in, along_in, step), moved(context, along_context, step), n, 1),
                         a, b);
    };
    const double h = 1e-5;
    check_close((value(h) - value(-h)) / (2 * h), slope, 1e-6 * size, "maf gradient");
}

template <class T>
void test_setting(const Setting& setting, std::size_t n, int threads) {
    const Flow<T> flow(setting, 3);
    Random random{unsigned(n)};
    const auto in = random.normals<T>(n * setting.features), context = random.normals<T>(n * setting.context);
    const auto z = apply(Direction::forward, flow, in, context, n, threads);
    const double tolerance = pick<T>(2e-3, 1e-10);  // relative to what scales of exp(3) per block leave
    for (std::size_t i = 0; i < n; ++i) {
        std::vector<double> x(in.begin() + i * setting.features, in.begin() + (i + 1) * setting.features);
        double log_det = 0;
        by_hand(flow, x, context.data() + i * setting.context, log_det);
        for (int j = 0; j < setting.features; ++j) {
            check_close(z.out[i * setting.features + j], x[j], tolerance * (1 + std::abs(x[j])),
                        name<T>("maf forward"));
        }
        check_close(z.log_det[i], log_det, tolerance * (1 + std::abs(log_det)), name<T>("maf log-determinant"));
    }
    const auto back = apply(Direction::inverse, flow, z.out, context, n, threads);
    for (std::size_t i = 0; i < in.size(); ++i) {
        check_close(back.out[i], in[i], tolerance * (1 + std::abs(double(in[i]))), name<T>("maf inverse"));
    }
    for (std::size_t i = 0; i < n; ++i)
        check_close(back.log_det[i], -z.log_det[i], tolerance * 20, name<T>("maf inverse"));
    // the same bits whatever the number of threads, gradients too
    const auto a = random.normals<T>(in.size()), b = random.normals<T>(n);
    const auto serial = apply(Direction::forward, flow, in, context, n, 1);
    check(serial.out == z.out && serial.log_det == z.log_det, "maf: values depend on the threads");
    const auto g = gradients(Direction::forward, flow, z, context, a, b, n, threads);
    const auto h = gradients(Direction::forward, flow, serial, context, a, b, n, 1);
    check(g.in == h.in && g.context == h.context && g.weights == h.weights, "maf: gradients depend on the threads");
}

// The sweep of the likelihood against the same by a forward and a backward call.
template <class T>
void test_likelihood(const Setting& setting, std::size_t n, int threads) {
    const Flow<T> flow(setting, 3);
    Random random{unsigned(n) + 1};
    const auto in = random.normals<T>(n * setting.features), context = random.normals<T>(n * setting.context);
    const auto w = random.normals<T>(n);
    const auto z = apply(Direction::forward, flow, in, context, n, threads);
    std::vector<T> to_z(in.size()), to_log_det(n);
    std::vector<double> log_p(n);
    double sum = 0, size = 1;
    for (std::size_t i = 0; i < n; ++i) {
        double square = 0;
        for (int j = 0; j < setting.features; ++j) {
            const T value = z.out[i * setting.features + j];
            square += double(value) * double(value);
            to_z[i * setting.features + j] = w[i] * value;
        }
        to_log_det[i] = -w[i];
        log_p[i] = z.log_det[i] - 0.5 * square - 0.5 * setting.features * std::log(2 * std::acos(-1.0));
        sum -= double(w[i]) * log_p[i];
        size = std::max(size, std::abs(log_p[i]));
    }
    const auto want = gradients(Direction::forward, flow, z, context, to_z, to_log_det, n, threads);
    Gradients<T> got{std::vector<T>(in.size()), std::vector<T>(context.size()), std::vector<T>(flow.flat.size())};
    std::vector<T> log_prob(n);
    T value = 0;
    maf_likelihood<T>(flow.shape, flow.blocks(flow.flat.data()), n, rows(in, setting.features),
                      rows(context, setting.context), Rows<const T>{w.data(), 1, 0}, threads, log_prob.data(), &value,
                      got.in.data(), setting.context ? got.context.data() : nullptr, flow.blocks(got.weights.data()));
    const double tolerance = pick<T>(1e-4, 1e-11);
    check_close(log_prob, log_p, tolerance * size, name<T>("maf_likelihood"));
    check_close(value, sum, tolerance * size * double(n + 1), name<T>("maf_likelihood sum"));
    const auto same = [&](const std::vector<T>& a, const std::vector<T>& b, const char* what) {
        double largest = 1;
        for (T v : b) largest = std::max(largest, std::abs(double(v)));
        check_close(a, to_double(b), tolerance * largest, name<T>(what));
    };
    same(got.in, want.in, "maf_likelihood gradient of events");
    same(got.context, want.context, "maf_likelihood gradient of context");
    same(got.weights, want.weights, "maf_likelihood gradient of weights");
}

}  // namespace

void test_maf(int threads) {
    const std::vector<Setting> settings{
        {1, 0, 1, {5}, Activation::relu},       {2, 3, 2, {7}, Activation::tanh},
        {3, 0, 2, {16, 9}, Activation::elu},    {6, 6, 3, {24, 24}, Activation::relu},
        {5, 1, 1, {8, 8, 8}, Activation::relu}, {17, 2, 1, {20}, Activation::tanh},
    };
    for (const Setting& setting : settings) {
        for (std::size_t n : {0, 1, 63, 65, 300}) {
            test_setting<float>(setting, n, threads);
            test_setting<double>(setting, n, threads);
            test_likelihood<float>(setting, n, threads);
            test_likelihood<double>(setting, n, threads);
        }
        if (setting.activation == Activation::relu) continue;  // kinks spoil differences
        for (Direction direction : {Direction::forward, Direction::inverse})
            check_slope(direction, setting, 70, threads);
    }
}

}  // namespace hepgen::tests
