// Compiled once per instruction set; see maf_tile.hpp.
#include "hepgen/maf_tile.hpp"

#include "hepgen/maf_bijection.hpp"
#include "hepgen/panel.hpp"

namespace hepgen::HEPGEN_ISA {
namespace {

// tanh and elu take a pass of their own; relu happens in the panels.
template <class T, bool Tanh>
void activate_as(T* x, int count) {
    for (int i = 0; i < count; i += Lanes<T>::width) {
        const Vec<T> v = load(x + i);
        if constexpr (Tanh) store(x + i, tanh<T>(v));
        if constexpr (!Tanh) store(x + i, v > T(0) ? v : expm1_nonpositive<T>(not_above<T>(T(0), v)));
    }
}

// The slope from the activated value y: 1 - y^2 for tanh, y + 1 for elu below 0.
template <class T, bool Tanh>
void multiply_slope_as(T* g, const T* y, int count) {
    for (int i = 0; i < count; i += Lanes<T>::width) {
        const Vec<T> v = load(y + i);
        if constexpr (Tanh) store(g + i, load(g + i) * (T(1) - v * v));
        if constexpr (!Tanh) store(g + i, load(g + i) * (v > T(0) ? broadcast<T>(T(1)) : v + T(1)));
    }
}

template <class T>
void activate(Activation kind, T* x, int count) {
    kind == Activation::tanh ? activate_as<T, true>(x, count) : activate_as<T, false>(x, count);
}

template <class T>
void multiply_slope(Activation kind, T* g, const T* y, int count) {
    kind == Activation::tanh ? multiply_slope_as<T, true>(g, y, count) : multiply_slope_as<T, false>(g, y, count);
}

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
    std::size_t column(int j) const { return t.order[j] * t.stride + index_ * events; }

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
            const bool rectify = layer < outputs && plan.activation == Activation::relu;
            multiply(part.panels, values(layer - 1), values(layer), rectify ? Finish::rectify : Finish::plain);
            if (layer < outputs && !rectify) {
                activate<T>(plan.activation, values(layer) + part.begin * events, (part.end - part.begin) * events);
            }
        }
    }

    void multiply(const Panels& panels, const T* in, T* out, Finish finish = Finish::plain,
                  const T* active = nullptr) const {
        for (int i = 0; i < panels.count; ++i) {
            const Panel& p = panels.first[i];
            const std::size_t at = p.first * events;
            const auto multiply_panel = kPanels<T>.multiply[static_cast<int>(finish)][p.count - 1];
            multiply_panel(t.packed + p.weights, p.bias == kNoBias ? nullptr : t.packed + p.bias, in + p.from * events,
                           p.length, out + at, active ? active + at : out + at);
        }
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
            if (plan.activation == Activation::relu) {
                multiply(part.panels, adjoints(layer + 1), adjoints(layer), Finish::where_active, values(layer));
                continue;
            }
            multiply(part.panels, adjoints(layer + 1), adjoints(layer));
            multiply_slope<T>(plan.activation, adjoints(layer) + part.begin * events,
                              values(layer) + part.begin * events, (part.end - part.begin) * events);
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
        store(t.gradient + column(j) + e, in);
    }

    void transpose() const {
        for (int layer = 0; layer < outputs; ++layer) {
            transpose_events<T>(values(layer), plan.widths[layer],
                                t.scratch + plan.transposed[layer] + index_ * events * Lanes<T>::width,
                                kTileEvents * Lanes<T>::width);
        }
    }

    void add_column_adjoint(int j) const {
        T* to = t.gradient + column(j);
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

// sums (+)= adjoints of a panel's units times what they saw, over the tile's events.
template <class T>
void add_panel_gradients(const MafTile<T>& t, const Panel& p, int layer) {
    using S = Strip<T>;
    constexpr int lanes = Lanes<T>::width;
    const std::size_t vector_stride = kTileEvents * lanes,
                      strip_stride = std::size_t(t.plan->widths[layer]) * S::events;
    const T* adjoints = t.scratch + t.plan->adjoints[layer] + p.first * S::events;
    const T* seen = t.scratch + t.plan->transposed[layer - 1];
    T* sums = t.sums + p.sums;
    int left = (p.length + lanes - 1) / lanes;
    for (; left >= 2; left -= 2, seen += 2 * vector_stride, sums += 2 * p.count * lanes) {
        kPanels<T>.outer2[p.count - 1](adjoints, strip_stride, seen, vector_stride, S::count, t.first, sums);
    }
    if (left) kPanels<T>.outer1[p.count - 1](adjoints, strip_stride, seen, vector_stride, S::count, t.first, sums);
}

template <class T>
void add_bias_gradients(const MafTile<T>& t, int layer) {
    using S = Strip<T>;
    constexpr int lanes = Lanes<T>::width;
    const int units = t.plan->widths[layer];
    for (int unit = 0; unit < units; ++unit) {
        const T* adjoints = t.scratch + t.plan->adjoints[layer] + unit * S::events;
        T* sums = t.sums + t.plan->bias_sums[layer] + unit * lanes;
        Vec<T> total = t.first ? Vec<T>{} : load(sums);
        for (int i = 0; i < S::count; ++i, adjoints += units * S::events) {
            for (int v = 0; v < kPanelVectors; ++v) total += load(adjoints + v * lanes);
        }
        store(sums, total);
    }
}

template <class T>
void add_weight_gradients(const MafTile<T>& t) {
    for (int layer = 1; layer <= t.plan->hidden_layers + 1; ++layer) {
        for (int step = 0; step < t.plan->step_count; ++step) {
            const Panels& panels = t.plan->steps[step].layers[layer - 1].panels;
            for (int i = 0; i < panels.count; ++i) add_panel_gradients(t, panels.first[i], layer);
        }
        add_bias_gradients(t, layer);
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
                const std::size_t at = strip.column(j) + e;
                const auto a = map.forward_adjoint(load(t.base + at), load(t.gradient + at), strip.log_det_gradient(e));
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
                const std::size_t at = strip.column(j) + e;
                const auto a = map.inverse_adjoint(load(t.base + at), load(t.gradient + at), strip.log_det_gradient(e));
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
