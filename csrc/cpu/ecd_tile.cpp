// Compiled once per instruction set; see ecd_tile.hpp.
#include "hepgen/ecd_tile.hpp"

#include "hepgen/simd.hpp"

namespace hepgen::HEPGEN_ISA {
namespace {

// A running sum of products in double: as many vectors of double as one of T needs.
template <class T>
struct Products;

template <>
struct Products<double> {
    Vec<double> sum{};
    HEPGEN_INLINE void add(Vec<double> a, Vec<double> b) { sum += a * b; }
    HEPGEN_INLINE double total() const { return sum_lanes<double>(sum); }
};

template <>
struct Products<float> {
    Vec<double> low{}, high{};
    HEPGEN_INLINE void add(Vec<float> a, Vec<float> b) {
        constexpr int half = Lanes<double>::width;
        constexpr auto lanes = std::make_integer_sequence<int, half>{};
        low += to_double<0>(a, lanes) * to_double<0>(b, lanes);
        high += to_double<half>(a, lanes) * to_double<half>(b, lanes);
    }
    HEPGEN_INLINE double total() const { return sum_lanes<double>(low + high); }
};

template <class T>
struct Accumulators {
    Products<T> vv, vg, gg, pp;

    template <bool decayed>
    HEPGEN_INLINE void add(const EcdPiece<T>& piece, std::size_t i) {
        const Vec<T> v = load(piece.velocity + i);
        Vec<T> g = load(piece.gradient + i);
        if constexpr (decayed) {
            const Vec<T> p = load<T>(piece.parameter + i);
            g += piece.weight_decay * p;
            pp.add(p, p);
        }
        vv.add(v, v);
        vg.add(v, g);
        gg.add(g, g);
    }
};

template <bool decayed, class T>
EcdSums sums(const EcdPiece<T>& piece) {
    constexpr std::size_t width = Lanes<T>::width;
    Accumulators<T> even, odd;
    std::size_t i = 0;
    for (; i + 2 * width <= piece.size; i += 2 * width) {
        even.template add<decayed>(piece, i);
        odd.template add<decayed>(piece, i + width);
    }
    EcdSums out{};
    for (; i < piece.size; ++i) {
        const T p = decayed ? piece.parameter[i] : T(0);
        const double v = piece.velocity[i], g = piece.gradient[i] + piece.weight_decay * p;
        out.vv += v * v;
        out.vg += v * g;
        out.gg += g * g;
        out.pp += double(p) * double(p);
    }
    out.vv += even.vv.total() + odd.vv.total();
    out.vg += even.vg.total() + odd.vg.total();
    out.gg += even.gg.total() + odd.gg.total();
    out.pp += even.pp.total() + odd.pp.total();
    return out;
}

template <bool decayed, bool bounced, class T>
void move(const EcdPiece<T>& piece, const EcdMove<T>& by) {
    constexpr std::size_t width = Lanes<T>::width;
    const EcdMove<T> m = by;  // copies: stores to the tensors cannot change them
    const EcdPiece<T> at = piece;
    std::size_t i = 0;
    for (; i + width <= at.size; i += width) {
        const Vec<T> p = load<T>(at.parameter + i);
        Vec<T> g = load(at.gradient + i);
        if constexpr (decayed) g += at.weight_decay * p;
        const Vec<T> w = m.of_velocity * load<T>(at.velocity + i) - m.of_gradient * g;
        Vec<T> v = m.inverse_norm * w;
        if constexpr (bounced) v += m.bounce * load(m.noise + i);
        store<T>(at.parameter + i, p + m.time * w);
        store<T>(at.velocity + i, v);
    }
    for (; i < at.size; ++i) {
        const T p = at.parameter[i];
        const T g = decayed ? at.gradient[i] + at.weight_decay * p : at.gradient[i];
        const T w = m.of_velocity * at.velocity[i] - m.of_gradient * g;
        at.parameter[i] = p + m.time * w;
        at.velocity[i] = m.inverse_norm * w + (bounced ? m.bounce * m.noise[i] : T(0));
    }
}

template <class T>
void move_any(const EcdPiece<T>& piece, const EcdMove<T>& by) {
    if (piece.weight_decay != 0) {
        by.noise ? move<true, true>(piece, by) : move<true, false>(piece, by);
    } else {
        by.noise ? move<false, true>(piece, by) : move<false, false>(piece, by);
    }
}

}  // namespace

EcdSums ecd_sums(const EcdPiece<float>& piece) {
    return piece.weight_decay != 0 ? sums<true>(piece) : sums<false>(piece);
}
EcdSums ecd_sums(const EcdPiece<double>& piece) {
    return piece.weight_decay != 0 ? sums<true>(piece) : sums<false>(piece);
}
void ecd_move(const EcdPiece<float>& piece, const EcdMove<float>& by) {
    move_any(piece, by);
}
void ecd_move(const EcdPiece<double>& piece, const EcdMove<double>& by) {
    move_any(piece, by);
}

}  // namespace hepgen::HEPGEN_ISA
