// Which hidden units of a tile are left out: a bit for every unit and event, from a counter. It depends on (seed,
// layer, unit, event) alone, and hepgen/kernels/dropout.py has the same bits.
//
// The counter is (unit, layer << 8 | k / 2, tile, "DROP"). Words 2 (k % 2) and 2 (k % 2) + 1 of its block are digit k
// of events 0 ... 31 and 32 ... 63 of the tile: from the least significant digit of the probability on,
// left_out = digit ? left_out | word : left_out & word, which makes every bit 1 with that probability.
#pragma once

#include "hepgen/mlp_tile.hpp"
#include "hepgen/panel.hpp"
#include "hepgen/philox_lanes.hpp"

namespace hepgen::HEPGEN_ISA {

// to[i]: one bit an event of the tile for unit first + i, set where the unit stays.
HEPGEN_INLINE void kept_bits(const MlpDropout& dropout, std::uint32_t tile, int layer, int first,
                             std::uint64_t (&to)[kBlocks]) {
    constexpr std::uint32_t stream = 0x44524F50;
    constexpr int digits = 16;
    Long low[kVectors] = {}, high[kVectors] = {};  // left out
    const int from = __builtin_ctz(dropout.out_of_65536);
    for (int k = from & ~1; k < digits; k += 2) {
        PhiloxWords words;
        philox_words({std::uint32_t(first), std::uint32_t(layer) << 8 | std::uint32_t(k / 2), tile, stream},
                     dropout.seed, words);
        for (int i = 0; i < 2; ++i) {
            const bool digit = dropout.out_of_65536 >> (k + i) & 1;
            for (int v = 0; v < kVectors; ++v) {
                low[v] = digit ? low[v] | words[2 * i][v] : low[v] & words[2 * i][v];
                high[v] = digit ? high[v] | words[2 * i + 1][v] : high[v] & words[2 * i + 1][v];
            }
        }
    }
    for (int v = 0; v < kVectors; ++v) {
        *reinterpret_cast<Long*>(to + v * kLongs) = ~((low[v] & 0xFFFFFFFF) | high[v] << 32);
    }
}

// x where the bits are set, 0 elsewhere; lane i belongs to bit i.
template <class T>
HEPGEN_INLINE Vec<T> where_kept(Vec<T> x, std::uint64_t bits) {
    typedef typename Lanes<T>::Ints Ints;
    Ints of_lane;
    for (int i = 0; i < Lanes<T>::width; ++i) of_lane[i] = decltype(of_lane[0] + 0)(1) << i;
    const Ints all = decltype(of_lane[0] + 0)(bits) - Ints{};
    return (all & of_lane) != 0 ? x : Vec<T>{};
}

// For the strips of a layer's values and, where there are such, adjoints: f(value, adjoint, bits).
template <class T, class F>
HEPGEN_INLINE void each_unit(const MlpDropout& dropout, std::uint32_t tile, int layer, int units, int strips, F f) {
    constexpr int events = kPanelEvents<T>;
    for (int first = 0; first < units; first += kBlocks) {
        alignas(kVectorBytes) std::uint64_t kept[kBlocks];
        kept_bits(dropout, tile, layer, first, kept);
        for (int unit = first; unit < (first + kBlocks < units ? first + kBlocks : units); ++unit) {
            for (int s = 0; s < strips; ++s) {
                for (int v = 0; v < kPanelVectors; ++v) {
                    const int at = v * Lanes<T>::width;
                    f((s * units + unit) * events + at, kept[unit - first] >> (s * events + at));
                }
            }
        }
    }
}

template <class T>
HEPGEN_INLINE T dropout_scale(const MlpDropout& dropout) {
    return T(65536) / T(65536 - dropout.out_of_65536);
}

// Values of a layer (strips, units, events) after its activation.
template <class T>
void drop_values(const MlpDropout& dropout, std::uint32_t tile, int layer, int units, int strips, T* values) {
    const T scale = dropout_scale<T>(dropout);
    each_unit<T>(dropout, tile, layer, units, strips, [&](int at, std::uint64_t kept) {
        store(values + at, where_kept<T>(scale * load(values + at), kept));
    });
}

// Adjoints times the slope of activation and dropout, from the values that drop_values left; those of relu are 0
// already where the values are.
template <class T>
void drop_adjoints(const MlpDropout& dropout, std::uint32_t tile, int layer, Activation kind, int units, int strips,
                   const T* values, T* adjoints) {
    const T scale = dropout_scale<T>(dropout);
    if (kind == Activation::relu) {
        for (int i = 0; i < strips * units * kPanelEvents<T>; i += Lanes<T>::width) {
            store(adjoints + i, scale * load(adjoints + i));
        }
        return;
    }
    each_unit<T>(dropout, tile, layer, units, strips, [&](int at, std::uint64_t kept) {
        const Vec<T> y = load(values + at) / scale;
        const Vec<T> slope = kind == Activation::tanh ? T(1) - y * y : y > T(0) ? broadcast<T>(T(1)) : y + T(1);
        store(adjoints + at, where_kept<T>(scale * slope * load(adjoints + at), kept));
    });
}

}  // namespace hepgen::HEPGEN_ISA
