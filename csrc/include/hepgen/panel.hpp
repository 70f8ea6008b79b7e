// The two products of a dense layer on a tile of events, with as many outputs as registers hold.
#pragma once

#include <cstddef>
#include <utility>

#include "hepgen/simd.hpp"

// Loops over what registers hold must be unrolled before the compiler decides what lives in memory.
#define HEPGEN_UNROLL _Pragma("GCC unroll 16")

namespace hepgen::HEPGEN_ISA {

inline constexpr int kPanelVectors = 2;
#if defined(__AVX512F__)
inline constexpr int kPanelRows = 12;  // of 32 registers: 24 sums, 2 inputs, 1 weight
#else
inline constexpr int kPanelRows = 6;  // of 16 registers: 12 sums, 2 inputs, 1 weight
#endif

template <class T>
inline constexpr int kPanelEvents = kPanelVectors * Lanes<T>::width;

// What becomes of a sum on its way out of the registers: nothing, max(sum, 0), or the sum where `active` is above 0.
enum class Finish { plain, rectify, where_active };

template <class T, Finish F>
HEPGEN_INLINE Vec<T> finished(Vec<T> sum, const T* active) {
    if constexpr (F == Finish::rectify) return sum < T(0) ? Vec<T>{} : sum;
    if constexpr (F == Finish::where_active) return load(active) <= T(0) ? Vec<T>{} : sum;
    return sum;
}

// out[r] = bias[r] + sum_k weights[k][r] in[k]; in (length, events), out and active (Rows, events), bias may be null.
// Few rows leave the multiply-add units waiting for each other, so they sum in several strands of k.
template <class T, int Rows, Finish F>
void multiply_panel(const T* __restrict weights, const T* __restrict bias, const T* __restrict in, int length,
                    T* __restrict out, [[maybe_unused]] const T* __restrict active) {
    constexpr int strands = Rows >= 4 ? 1 : Rows >= 2 ? 2 : 4;
    constexpr int width = Lanes<T>::width;
    Vec<T> sum[strands][Rows][kPanelVectors];
    HEPGEN_UNROLL
    for (int s = 0; s < strands; ++s) {
        HEPGEN_UNROLL
        for (int r = 0; r < Rows; ++r) {
            HEPGEN_UNROLL
            for (int v = 0; v < kPanelVectors; ++v) sum[s][r][v] = bias && s == 0 ? broadcast<T>(bias[r]) : Vec<T>{};
        }
    }
    if constexpr (F == Finish::where_active) {  // kept values come from far away, and are needed at the end
        HEPGEN_UNROLL
        for (int r = 0; r < Rows; ++r) {
            HEPGEN_UNROLL
            for (int v = 0; v < kPanelVectors; ++v) __builtin_prefetch(active + r * kPanelEvents<T> + v * width);
        }
    }
    int k = 0;
    for (; k + strands <= length; k += strands) {
        HEPGEN_UNROLL
        for (int s = 0; s < strands; ++s) {
            Vec<T> x[kPanelVectors];
            HEPGEN_UNROLL
            for (int v = 0; v < kPanelVectors; ++v) x[v] = load(in + s * kPanelEvents<T> + v * width);
            HEPGEN_UNROLL
            for (int r = 0; r < Rows; ++r) {
                const Vec<T> w = broadcast<T>(weights[s * Rows + r]);
                HEPGEN_UNROLL
                for (int v = 0; v < kPanelVectors; ++v) sum[s][r][v] += w * x[v];
            }
        }
        in += strands * kPanelEvents<T>;
        weights += strands * Rows;
    }
    for (; k < length; ++k) {
        HEPGEN_UNROLL
        for (int r = 0; r < Rows; ++r) {
            HEPGEN_UNROLL
            for (int v = 0; v < kPanelVectors; ++v) sum[0][r][v] += weights[r] * load(in + v * width);
        }
        in += kPanelEvents<T>;
        weights += Rows;
    }
    HEPGEN_UNROLL
    for (int r = 0; r < Rows; ++r) {
        HEPGEN_UNROLL
        for (int v = 0; v < kPanelVectors; ++v) {
            Vec<T> total = sum[0][r][v];
            HEPGEN_UNROLL
            for (int s = 1; s < strands; ++s) total += sum[s][r][v];
            const int at = r * kPanelEvents<T> + v * width;
            store(out + at, finished<T, F>(total, active + at));
        }
    }
}

// sums[v][r] (+)= sum_e a[r][e] b[v][e], lanes of v across inputs. a (groups, rows, events) with a_stride between
// groups; b (Vectors, groups * events, lanes) with b_stride between vectors.
template <class T, int Rows, int Vectors>
void add_outer(const T* __restrict a, std::size_t a_stride, const T* __restrict b, std::size_t b_stride, int groups,
               bool first, T* __restrict sums) {
    constexpr int width = Lanes<T>::width;
    Vec<T> sum[Vectors][Rows];
    HEPGEN_UNROLL
    for (int v = 0; v < Vectors; ++v) {
        HEPGEN_UNROLL
        for (int r = 0; r < Rows; ++r) sum[v][r] = first ? Vec<T>{} : load(sums + (v * Rows + r) * width);
    }
    for (int g = 0; g < groups; ++g) {
        for (int e = 0; e < kPanelEvents<T>; ++e) {
            Vec<T> y[Vectors];
            HEPGEN_UNROLL
            for (int v = 0; v < Vectors; ++v) y[v] = load(b + v * b_stride + e * width);
            HEPGEN_UNROLL
            for (int r = 0; r < Rows; ++r) {
                const Vec<T> x = broadcast<T>(a[r * kPanelEvents<T> + e]);
                HEPGEN_UNROLL
                for (int v = 0; v < Vectors; ++v) sum[v][r] += x * y[v];
            }
        }
        a += a_stride;
        b += kPanelEvents<T> * width;
    }
    HEPGEN_UNROLL
    for (int v = 0; v < Vectors; ++v) {
        HEPGEN_UNROLL
        for (int r = 0; r < Rows; ++r) store(sums + (v * Rows + r) * width, sum[v][r]);
    }
}

template <class T>
struct PanelTable {
    using Multiply = void (*)(const T*, const T*, const T*, int, T*, const T*);
    using Outer = void (*)(const T*, std::size_t, const T*, std::size_t, int, bool, T*);
    Multiply multiply[3][kPanelRows];  // by Finish
    Outer outer1[kPanelRows], outer2[kPanelRows];
};

template <class T, int... I>
constexpr PanelTable<T> make_panel_table(std::integer_sequence<int, I...>) {
    return {{{multiply_panel<T, I + 1, Finish::plain>...},
             {multiply_panel<T, I + 1, Finish::rectify>...},
             {multiply_panel<T, I + 1, Finish::where_active>...}},

            {add_outer<T, I + 1, 1>...},
            {add_outer<T, I + 1, 2>...}};
}

template <class T>
inline constexpr PanelTable<T> kPanels = make_panel_table<T>(std::make_integer_sequence<int, kPanelRows>{});

// Exchanges, for a bit s of the lane number, lane l of row i with lane l + s of row i - s: log2(lanes) such steps
// transpose a square.
template <class T, int S, int... L>
HEPGEN_INLINE void exchange(Vec<T>& low, Vec<T>& high, std::integer_sequence<int, L...>) {
    constexpr int width = sizeof...(L);
    const Vec<T> a = low, b = high;
    low = __builtin_shufflevector(a, b, (L & S ? width + L - S : L)...);
    high = __builtin_shufflevector(a, b, (L & S ? width + L : L + S)...);
}

template <class T, int S>
HEPGEN_INLINE void exchange_all(Vec<T>* rows) {
    constexpr int width = Lanes<T>::width;
    if constexpr (S < width) {
        for (int i = 0; i < width; ++i) {
            if (!(i & S)) exchange<T, S>(rows[i], rows[i + S], std::make_integer_sequence<int, width>{});
        }
        exchange_all<T, 2 * S>(rows);
    }
}

// (rows, events) -> (ceil(rows / lanes), events, lanes), zeros where rows end; out_stride between the vectors.
template <class T>
void transpose_events(const T* in, int rows, T* out, std::size_t out_stride) {
    constexpr int width = Lanes<T>::width;
    for (int first = 0; first < rows; first += width) {
        for (int v = 0; v < kPanelVectors; ++v) {
            Vec<T> square[width];
            for (int i = 0; i < width; ++i) {
                square[i] = first + i < rows ? load(in + (first + i) * kPanelEvents<T> + v * width) : Vec<T>{};
            }
            exchange_all<T, 1>(square);
            for (int i = 0; i < width; ++i) store(out + (v * width + i) * width, square[i]);
        }
        out += out_stride;
    }
}

}  // namespace hepgen::HEPGEN_ISA
