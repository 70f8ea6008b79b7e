// Compiled once per instruction set; see maf_tile.hpp.
#include "hepgen/maf_tile.hpp"

#include "hepgen/layer.hpp"
#include "hepgen/maf_bijection.hpp"

namespace hepgen::HEPGEN_ISA {
namespace {

// A part of the tile as wide as a panel, with the pieces of the scratch that belong to it.
template <class T>
class Strip {
  public:
    static constexpr int events = kPanelEvents<T>;
    static constexpr int count = kTileEvents / events;

    Strip(const MafTile<T>& tile, int index)
        : t(tile), plan(*tile.plan), outputs(plan.hidden_layers + 1), index_(index) {}

    T* values(int layer) const { return piece(t.values + plan.values[layer], plan.widths[layer]); }
    T* adjoints(int layer) const { return piece(t.scratch + plan.adjoints[layer], plan.widths[layer]); }
    std::size_t column(int j) const { return t.order[j] * t.state_stride + index_ * events; }
    T* gradient(int j) const { return t.gradient + t.order[j] * t.stride + index_ * events; }

    void load_context() const {
        for (int k = 0; k < plan.context; ++k) copy(t.context + k * t.stride + index_ * events, values(0) + k * events);
    }

    void load_columns() const {
        for (int j = 0; j < plan.features; ++j) copy(t.data + column(j), values(0) + (plan.context + j) * events);
    }

    // From the data side, where they are not known already.
    void compute_all() const {
        if (t.known) return;
        load_context();
        load_columns();
        for (int i = 0; i < plan.step_count; ++i) compute(plan.steps[i]);
    }

    void compute(const Step& step) const {
        for (int layer = 1; layer <= outputs; ++layer) {
            const Part& part = step.layers[layer - 1];
            if (layer == outputs) {
                multiply(part.panels, values(layer - 1), values(layer));
            } else {
                compute_units<T>(plan.activation, part.panels, part.begin, part.end, t.packed, values(layer - 1),
                                 values(layer));
            }
        }
    }

    void multiply(const Panels& panels, const T* in, T* out) const {
        for (int i = 0; i < panels.count; ++i) multiply_one(panels.first[i], t.packed, in, out, Finish::plain);
    }

    // solve(map, offset of the events in this strip) for the parameters of column j
    template <class Solve>
    HEPGEN_INLINE void with_map(int j, const Solve& solve) const {
        const T* parameters = values(outputs) + kMapOutputs * j * events;
        for (int e = 0; e < events; e += Lanes<T>::width) {
            solve(AffineMap<T>{load(parameters + e), load(parameters + events + e), T(1 / plan.bound)}, e);
        }
    }

    void hidden_adjoint(const Step& step) const {
        for (int layer = plan.hidden_layers; layer >= 1; --layer) {
            const Part& part = step.layers[layer - 1];
            adjoint_units<T>(plan.activation, part.panels, part.begin, part.end, t.packed, adjoints(layer + 1),
                             values(layer), adjoints(layer));
        }
    }

    void context_adjoint() const {
        if (!t.context_gradient) return;
        multiply(plan.adjoint_context, adjoints(1), adjoints(0));
        for (int k = 0; k < plan.context; ++k) {
            T* to = t.context_gradient + k * t.stride + index_ * events;
            for (int e = 0; e < events; e += Lanes<T>::width) {
                store(to + e, load(to + e) + load(adjoints(0) + k * events + e));
            }
        }
    }

    // Gradients of column j's parameters and, in `in`, of the block's input.
    HEPGEN_INLINE void map_adjoint(int j, int e, const typename AffineMap<T>::Adjoint& a, Vec<T> in) const {
        T* to = adjoints(outputs) + kMapOutputs * j * events + e;
        store(to, a.shift);
        store(to + events, a.raw);
        store(gradient(j) + e, in);
    }

    void transpose() const {
        for (int layer = 0; layer < outputs; ++layer) {
            transpose_events<T>(values(layer), plan.widths[layer],
                                t.scratch + plan.transposed[layer] + index_ * events * Lanes<T>::width,
                                kTileEvents * Lanes<T>::width);
        }
    }

    void add_column_adjoint(int j) const {
        T* to = gradient(j);
        const T* from = adjoints(0) + (plan.context + j) * events;
        for (int e = 0; e < events; e += Lanes<T>::width) store(to + e, load(to + e) + load(from + e));
    }

    void add_log_det(const Vec<T>* change) const {
        T* to = t.log_det + index_ * events;
        for (int v = 0; v < kPanelVectors; ++v) {
            store(to + v * Lanes<T>::width, load(to + v * Lanes<T>::width) + change[v]);
        }
    }

    HEPGEN_INLINE Vec<T> log_det_gradient(int e) const { return load(t.log_det_gradient + index_ * events + e); }

    const MafTile<T>& t;
    const MafPlan& plan;
    const int outputs;

  private:
    T* piece(T* whole, int rows) const { return whole + std::size_t(index_) * rows * events; }

    static void copy(const T* from, T* to) {
        for (int e = 0; e < events; e += Lanes<T>::width) store(to + e, load(from + e));
    }

    const int index_;
};

template <class T>
void forward(const MafTile<T>& t) {
    for (int i = 0; i < Strip<T>::count; ++i) {
        const Strip<T> strip(t, i);
        strip.compute_all();
        Vec<T> log_det[kPanelVectors] = {};
        for (int j = 0; j < t.plan->features; ++j) {
            const T* x = strip.values(0) + (t.plan->context + j) * strip.events;
            strip.with_map(j, [&](const AffineMap<T>& map, int e) {
                Vec<T> change;
                store(t.out + strip.column(j) + e, map.forward(load(x + e), change));
                log_det[e / Lanes<T>::width] += change;
            });
        }
        strip.add_log_det(log_det);
    }
}

template <class T>
void inverse(const MafTile<T>& t) {
    for (int i = 0; i < Strip<T>::count; ++i) {
        const Strip<T> strip(t, i);
        strip.load_context();
        Vec<T> log_det[kPanelVectors] = {};
        for (int j = 0; j < t.plan->features; ++j) {
            strip.compute(t.plan->steps[j]);
            T* x = strip.values(0) + (t.plan->context + j) * strip.events;
            strip.with_map(j, [&](const AffineMap<T>& map, int e) {
                Vec<T> change;
                const Vec<T> solved = map.inverse(load(t.base + strip.column(j) + e), change);
                store(x + e, solved);
                store(t.out + strip.column(j) + e, solved);
                log_det[e / Lanes<T>::width] += change;
            });
        }
        strip.add_log_det(log_det);
    }
}

template <class T>
void add_weight_gradients(const MafTile<T>& t) {
    const MafPlan& plan = *t.plan;
    for (int layer = 1; layer <= plan.hidden_layers + 1; ++layer) {
        const T* adjoints = t.scratch + plan.adjoints[layer];
        const T* seen = t.scratch + plan.transposed[layer - 1];
        for (int step = 0; step < plan.step_count; ++step) {
            const Panels& panels = plan.steps[step].layers[layer - 1].panels;
            for (int i = 0; i < panels.count; ++i) {
                add_panel_gradients(panels.first[i], adjoints, plan.widths[layer], seen, Strip<T>::count, t.first,
                                    t.sums);
            }
        }
        add_bias_gradients(adjoints, plan.widths[layer], Strip<T>::count, t.first, t.sums + plan.bias_sums[layer]);
    }
}

template <class T>
void forward_backward(const MafTile<T>& t) {
    for (int i = 0; i < Strip<T>::count; ++i) {
        const Strip<T> strip(t, i);
        const MafPlan& plan = strip.plan;
        strip.compute_all();
        for (int j = 0; j < plan.features; ++j) {
            strip.with_map(j, [&](const AffineMap<T>& map, int e) {
                const Vec<T> z = load(t.base + strip.column(j) + e), g = load(strip.gradient(j) + e);
                const auto a = map.forward_adjoint(z, g, strip.log_det_gradient(e));
                strip.map_adjoint(j, e, a, a.in);
            });
        }
        for (int step = plan.adjoint_count - 1; step >= 0; --step) strip.hidden_adjoint(plan.adjoint[step]);
        for (int i = 0; i < plan.adjoint_input_count; ++i) {
            strip.multiply(plan.adjoint_inputs[i], strip.adjoints(1), strip.adjoints(0));
        }
        for (int j = 0; j < plan.features; ++j) strip.add_column_adjoint(j);
        strip.context_adjoint();
        if (t.sums) strip.transpose();
    }
    if (t.sums) add_weight_gradients(t);
}

// The walk of the inverse, backwards: what reaches column j through later columns is complete once the units of
// higher degree have their adjoints, and these wait for later columns only.
template <class T>
void inverse_backward(const MafTile<T>& t) {
    for (int i = 0; i < Strip<T>::count; ++i) {
        const Strip<T> strip(t, i);
        const MafPlan& plan = strip.plan;
        strip.compute_all();
        for (int j = plan.features - 1; j >= 0; --j) {
            strip.multiply(plan.adjoint_inputs[j], strip.adjoints(1), strip.adjoints(0));
            strip.add_column_adjoint(j);
            strip.with_map(j, [&](const AffineMap<T>& map, int e) {
                const Vec<T> z = load(t.base + strip.column(j) + e), g = load(strip.gradient(j) + e);
                const auto a = map.inverse_adjoint(z, g, strip.log_det_gradient(e));
                strip.map_adjoint(j, e, a, a.in);
            });
            strip.hidden_adjoint(plan.adjoint[j]);
        }
        strip.context_adjoint();
        if (t.sums) strip.transpose();
    }
    if (t.sums) add_weight_gradients(t);
}

template <class T>
MafKernels<T> kernels() {
    return {Lanes<T>::width, kPanelRows, forward<T>, inverse<T>, forward_backward<T>, inverse_backward<T>};
}

}  // namespace

MafKernels<float> maf_kernels(float) {
    return kernels<float>();
}
MafKernels<double> maf_kernels(double) {
    return kernels<double>();
}

}  // namespace hepgen::HEPGEN_ISA
