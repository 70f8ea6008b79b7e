// The element-wise map of a flow, kept apart from the masked network that feeds it: x = z exp(a) + m, with the raw
// log-scale r soft-clipped, a = r / (1 + abs(r) / bound).
#pragma once

#include "hepgen/elementary.hpp"

namespace hepgen::HEPGEN_ISA {

template <class T>
struct AffineMap {
    Vec<T> shift, raw;
    T inverse_bound;

    struct Adjoint {
        Vec<T> in, shift, raw;
    };

    HEPGEN_INLINE Vec<T> clip_factor() const { return T(1) / ((raw < T(0) ? -raw : raw) * inverse_bound + T(1)); }

    // z and log |dz/dx|
    HEPGEN_INLINE Vec<T> forward(Vec<T> x, Vec<T>& log_derivative) const {
        log_derivative = -raw * clip_factor();
        return (x - shift) * exp<T>(log_derivative);
    }

    // x and log |dx/dz|
    HEPGEN_INLINE Vec<T> inverse(Vec<T> z, Vec<T>& log_derivative) const {
        log_derivative = raw * clip_factor();
        return z * exp<T>(log_derivative) + shift;
    }

    // From the gradients g of z and g_log of log |dz/dx|. da/dr = (a / r)^2.
    HEPGEN_INLINE Adjoint forward_adjoint(Vec<T> z, Vec<T> g, Vec<T> g_log) const {
        const Vec<T> factor = clip_factor();
        const Vec<T> in = g * exp<T>(-raw * factor);
        return {in, -in, -(g * z + g_log) * factor * factor};
    }

    // From the gradients g of x and g_log of log |dx/dz|.
    HEPGEN_INLINE Adjoint inverse_adjoint(Vec<T> z, Vec<T> g, Vec<T> g_log) const {
        const Vec<T> factor = clip_factor();
        const Vec<T> in = g * exp<T>(raw * factor);
        return {in, g, (in * z + g_log) * factor * factor};
    }
};

}  // namespace hepgen::HEPGEN_ISA
