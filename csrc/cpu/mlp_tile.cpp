// Compiled once per instruction set; see mlp_tile.hpp.
#include "hepgen/mlp_tile.hpp"

#include "hepgen/dropout.hpp"
#include "hepgen/layer.hpp"

namespace hepgen::HEPGEN_ISA {
namespace {

template <class T>
struct Network {
    static constexpr int events = kPanelEvents<T>;

    explicit Network(const MlpTile<T>& tile) : t(tile), plan(*tile.plan) {}

    T* values(int layer) const { return t.values + plan.values_at[layer]; }
    T* adjoints(int layer) const { return t.adjoints + plan.adjoints_at[layer]; }
    T* transposed(int layer) const { return t.transposed + plan.transposed_at[layer]; }
    int strip_size(int layer) const { return plan.widths[layer] * events; }

    // A panel takes all strips in turn: its weights stay in the first cache level.
    void multiply(const Panels& panels, const T* in, int in_size, T* out, int out_size, Finish finish,
                  const T* active) const {
        for (int i = 0; i < panels.count; ++i) {
            for (int s = 0; s < t.strips; ++s) {
                multiply_one(panels.first[i], t.packed, in + s * in_size, out + s * out_size, finish,
                             active ? active + s * out_size : nullptr);
            }
        }
    }

    void compute() const {
        for (int layer = 1; layer <= plan.layers; ++layer) {
            const bool last = layer == plan.layers, shortcut = plan.has_shortcut(layer);
            const int size = strip_size(layer);
            multiply(plan.values[layer - 1], values(layer - 1), strip_size(layer - 1), values(layer), size,
                     last || shortcut ? Finish::plain : finish_of(plan.activation), nullptr);
            if (shortcut) {
                activate_sum(plan.activation, values(layer), values(layer - 2), t.strips * size);
            } else if (!last) {
                activate(plan.activation, values(layer), t.strips * size);
            }
            if (!last && t.dropout.out_of_65536) {
                drop_values(t.dropout, t.number, layer, plan.widths[layer], t.strips, values(layer));
            }
        }
        const int count = t.strips * strip_size(plan.layers);
        if (plan.output == MlpOutput::sigmoid) sigmoid(values(plan.layers), count);
        if (plan.output == MlpOutput::tanh) activate(Activation::tanh, values(plan.layers), count);
    }

    static void sigmoid(T* x, int count) {
        for (int i = 0; i < count; i += Lanes<T>::width) store(x + i, T(1) / (exp<T>(-load(x + i)) + T(1)));
    }

    void multiply_output_slope() const {
        T* g = adjoints(plan.layers);
        const T* y = values(plan.layers);
        const int count = t.strips * strip_size(plan.layers);
        if (plan.output == MlpOutput::tanh) multiply_slope(Activation::tanh, g, y, count);
        if (plan.output != MlpOutput::sigmoid) return;
        for (int i = 0; i < count; i += Lanes<T>::width) {
            const Vec<T> v = load(y + i);
            store(g + i, load(g + i) * v * (T(1) - v));
        }
    }

    void compute_adjoints() const {
        multiply_output_slope();
        for (int layer = plan.layers - 1; layer >= (t.wants_input ? 0 : 1); --layer) {
            const Finish finish = layer ? adjoint_finish_of(plan.activation) : Finish::plain;
            multiply(plan.adjoints[layer], adjoints(layer + 1), strip_size(layer + 1), adjoints(layer),
                     strip_size(layer), finish, values(layer));
            if (plan.has_shortcut(layer + 2)) {
                add_adjoints(plan.activation, adjoints(layer), adjoints(layer + 2), values(layer),
                             t.strips * strip_size(layer));
            }
            if (layer) multiply_slopes(layer);
        }
    }

    void multiply_slopes(int layer) const {
        if (t.dropout.out_of_65536) {
            drop_adjoints(t.dropout, t.number, layer, plan.activation, plan.widths[layer], t.strips, values(layer),
                          adjoints(layer));
        } else {
            multiply_slope(plan.activation, adjoints(layer), values(layer), t.strips * strip_size(layer));
        }
    }

    void add_weight_gradients() const {
        for (int layer = 1; layer <= plan.layers; ++layer) {
            for (int s = 0; s < t.strips; ++s) {
                transpose_events<T>(values(layer - 1) + s * strip_size(layer - 1), plan.widths[layer - 1],
                                    transposed(layer - 1) + s * events * Lanes<T>::width,
                                    kTileEvents * Lanes<T>::width);
            }
            const Panels& panels = plan.values[layer - 1];
            for (int i = 0; i < panels.count; ++i) {
                add_panel_gradients(panels.first[i], adjoints(layer), plan.widths[layer], transposed(layer - 1),
                                    t.strips, t.first, t.sums);
            }
            add_bias_gradients(adjoints(layer), plan.widths[layer], t.strips, t.first, t.sums + plan.bias_sums[layer]);
        }
    }

    const MlpTile<T>& t;
    const MlpPlan& plan;
};

template <class T>
void forward(const MlpTile<T>& tile) {
    Network<T>(tile).compute();
}

template <class T>
void backward(const MlpTile<T>& tile) {
    const Network<T> network(tile);
    if (!tile.known) network.compute();
    network.compute_adjoints();
    if (tile.sums) network.add_weight_gradients();
}

template <class T>
MlpKernels<T> kernels() {
    return {Lanes<T>::width, kPanelRows, kPanelEvents<T>, forward<T>, backward<T>};
}

}  // namespace

MlpKernels<float> mlp_kernels(float) {
    return kernels<float>();
}
MlpKernels<double> mlp_kernels(double) {
    return kernels<double>();
}

}  // namespace hepgen::HEPGEN_ISA
