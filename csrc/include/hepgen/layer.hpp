// Dense layers of a tile of events: their values, adjoints and the gradients of their weights.
//
// A tile is a few strips, each as wide as a panel; a layer's values in one strip are (units, events).
#pragma once

#include "hepgen/elementary.hpp"
#include "hepgen/panel.hpp"
#include "hepgen/panels.hpp"

namespace hepgen::HEPGEN_ISA {

template <class T, Activation Kind>
HEPGEN_INLINE Vec<T> activated(Vec<T> x) {
    if constexpr (Kind == Activation::relu) return x < T(0) ? Vec<T>{} : x;
    if constexpr (Kind == Activation::tanh) return tanh<T>(x);
    if constexpr (Kind == Activation::elu) return x > T(0) ? x : expm1_nonpositive<T>(not_above<T>(T(0), x));
}

// tanh and elu take a pass of their own; relu happens in the panels.
template <class T, Activation Kind>
void activate_as(T* x, int count) {
    for (int i = 0; i < count; i += Lanes<T>::width) store(x + i, activated<T, Kind>(load(x + i)));
}

template <class T, Activation Kind>
void activate_sum_as(T* x, const T* added, int count) {
    for (int i = 0; i < count; i += Lanes<T>::width) store(x + i, activated<T, Kind>(load(x + i) + load(added + i)));
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

// In place; relu is done already.
template <class T>
HEPGEN_INLINE void activate(Activation kind, T* x, int count) {
    if (kind == Activation::tanh) activate_as<T, Activation::tanh>(x, count);
    if (kind == Activation::elu) activate_as<T, Activation::elu>(x, count);
}

// Of x + added, relu too; in place.
template <class T>
HEPGEN_INLINE void activate_sum(Activation kind, T* x, const T* added, int count) {
    if (kind == Activation::relu) activate_sum_as<T, Activation::relu>(x, added, count);
    if (kind == Activation::tanh) activate_sum_as<T, Activation::tanh>(x, added, count);
    if (kind == Activation::elu) activate_sum_as<T, Activation::elu>(x, added, count);
}

// g + added, which relu stops where it is not active.
template <class T>
void add_adjoints(Activation kind, T* g, const T* added, const T* y, int count) {
    for (int i = 0; i < count; i += Lanes<T>::width) {
        const Vec<T> v = load(added + i);
        store(g + i, load(g + i) + (kind == Activation::relu ? load(y + i) <= T(0) ? Vec<T>{} : v : v));
    }
}

template <class T>
HEPGEN_INLINE void multiply_slope(Activation kind, T* g, const T* y, int count) {
    if (kind == Activation::tanh) multiply_slope_as<T, true>(g, y, count);
    if (kind == Activation::elu) multiply_slope_as<T, false>(g, y, count);
}

HEPGEN_INLINE Finish finish_of(Activation kind) {
    return kind == Activation::relu ? Finish::rectify : Finish::plain;
}

HEPGEN_INLINE Finish adjoint_finish_of(Activation kind) {
    return kind == Activation::relu ? Finish::where_active : Finish::plain;
}

// From a strip of the layer before to a strip of this layer, both from unit 0 on.
template <class T>
HEPGEN_INLINE void multiply_one(const Panel& p, const T* packed, const T* in, T* out, Finish finish,
                                const T* active = nullptr) {
    const std::size_t at = std::size_t(p.first) * kPanelEvents<T>;
    kPanels<T>.multiply[static_cast<int>(finish)][p.count - 1](
        packed + p.weights, p.bias == kNoBias ? nullptr : packed + p.bias, in + p.from * kPanelEvents<T>, p.length,
        out + at, active ? active + at : out + at);
}

// Activated values of units [begin, end), whose panels these are.
template <class T>
void compute_units(Activation kind, const Panels& panels, int begin, int end, const T* packed, const T* in, T* out) {
    for (int i = 0; i < panels.count; ++i) multiply_one(panels.first[i], packed, in, out, finish_of(kind));
    activate(kind, out + begin * kPanelEvents<T>, (end - begin) * kPanelEvents<T>);
}

// Adjoints of units [begin, end), with activated values y, from those of the layer after; panels over the transposed
// weights.
template <class T>
void adjoint_units(Activation kind, const Panels& panels, int begin, int end, const T* packed, const T* in, const T* y,
                   T* out) {
    for (int i = 0; i < panels.count; ++i) multiply_one(panels.first[i], packed, in, out, adjoint_finish_of(kind), y);
    const int from = begin * kPanelEvents<T>;
    multiply_slope(kind, out + from, y + from, (end - begin) * kPanelEvents<T>);
}

// sums (+)= adjoints (strips, units, events) of a panel's units times what they saw, transposed (ceil(inputs / lanes),
// tile events, lanes).
template <class T>
void add_panel_gradients(const Panel& p, const T* adjoints, int units, const T* seen, int strips, bool first, T* sums) {
    constexpr int lanes = Lanes<T>::width;
    constexpr std::size_t vector_stride = kTileEvents * lanes;
    const std::size_t strip_stride = std::size_t(units) * kPanelEvents<T>;
    adjoints += p.first * kPanelEvents<T>;
    sums += p.sums;
    int left = (p.length + lanes - 1) / lanes;
    for (; left >= 2; left -= 2, seen += 2 * vector_stride, sums += 2 * p.count * lanes) {
        kPanels<T>.outer2[p.count - 1](adjoints, strip_stride, seen, vector_stride, strips, first, sums);
    }
    if (left) kPanels<T>.outer1[p.count - 1](adjoints, strip_stride, seen, vector_stride, strips, first, sums);
}

// sums (units, lanes) (+)= adjoints (strips, units, events) over the events.
template <class T>
void add_bias_gradients(const T* adjoints, int units, int strips, bool first, T* sums) {
    constexpr int lanes = Lanes<T>::width;
    for (int unit = 0; unit < units; ++unit, adjoints += kPanelEvents<T>, sums += lanes) {
        Vec<T> total = first ? Vec<T>{} : load(sums);
        for (int i = 0; i < strips; ++i) {
            const T* from = adjoints + std::size_t(i) * units * kPanelEvents<T>;
            for (int v = 0; v < kPanelVectors; ++v) total += load(from + v * lanes);
        }
        store(sums, total);
    }
}

}  // namespace hepgen::HEPGEN_ISA
