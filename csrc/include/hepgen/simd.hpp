// Vectors as wide as the instruction set that the including source is compiled for.
// Everything lives in the namespace HEPGEN_ISA, so that the linker never merges code of two instruction sets.
#pragma once

#ifndef HEPGEN_ISA
#error "simd.hpp belongs in sources that are compiled once per instruction set"
#endif

#include <cstdint>
#include <utility>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#define HEPGEN_INLINE inline __attribute__((always_inline))

namespace hepgen::HEPGEN_ISA {

#if defined(__AVX512F__)
inline constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
inline constexpr int kVectorBytes = 32;
#else
inline constexpr int kVectorBytes = 16;
#endif

template <class T>
struct Lanes;
template <>
struct Lanes<float> {
    typedef float Type __attribute__((vector_size(kVectorBytes)));
    typedef float Unaligned __attribute__((vector_size(kVectorBytes), aligned(4), may_alias));
    typedef std::int32_t Ints __attribute__((vector_size(kVectorBytes)));
    static constexpr int width = kVectorBytes / 4;
};
template <>
struct Lanes<double> {
    typedef double Type __attribute__((vector_size(kVectorBytes)));
    typedef double Unaligned __attribute__((vector_size(kVectorBytes), aligned(8), may_alias));
    typedef std::int64_t Ints __attribute__((vector_size(kVectorBytes)));
    static constexpr int width = kVectorBytes / 8;
};

template <class T>
using Vec = typename Lanes<T>::Type;

template <class T>
HEPGEN_INLINE Vec<T> load(const T* p) {
    return *reinterpret_cast<const typename Lanes<T>::Unaligned*>(p);
}

template <class T>
HEPGEN_INLINE void store(T* p, Vec<T> v) {
    *reinterpret_cast<typename Lanes<T>::Unaligned*>(p) = v;
}

template <class T>
HEPGEN_INLINE Vec<T> broadcast(T value) {
    return value - Vec<T>{};
}

// The lanes moved by `step` places, cyclically.
template <class T, int step, int... lane>
HEPGEN_INLINE Vec<T> rotate(Vec<T> v, std::integer_sequence<int, lane...>) {
    return __builtin_shufflevector(v, v, (lane + step) % Lanes<T>::width...);
}

// The sum over the lanes, added pairwise.
template <class T, int step = Lanes<T>::width / 2>
HEPGEN_INLINE T sum_lanes(Vec<T> v) {
    v += rotate<T, step>(v, std::make_integer_sequence<int, Lanes<T>::width>{});
    if constexpr (step > 1) return sum_lanes<T, step / 2>(v);
    return v[0];
}

template <int from, int... lane>
HEPGEN_INLINE Vec<double> to_double(Vec<float> v, std::integer_sequence<int, lane...>) {
    return __builtin_convertvector(__builtin_shufflevector(v, v, (from + lane)...), Vec<double>);
}

// acc[0 .. width) += v, in double.
HEPGEN_INLINE void add_to(double* acc, Vec<double> v) {
    store<double>(acc, load(acc) + v);
}
HEPGEN_INLINE void add_to(double* acc, Vec<float> v) {
    constexpr int half = Lanes<double>::width;
    constexpr auto lanes = std::make_integer_sequence<int, half>{};
    add_to(acc, to_double<0>(v, lanes));
    add_to(acc + half, to_double<half>(v, lanes));
}

// Numbers below the smallest normal one count as zero while this lives: they change nothing and cost a lot.
class FlushDenormals {
  public:
#if defined(__SSE2__)
    FlushDenormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040); }
    ~FlushDenormals() { _mm_setcsr(saved_); }
    FlushDenormals(const FlushDenormals&) = delete;
    FlushDenormals& operator=(const FlushDenormals&) = delete;

  private:
    unsigned saved_;
#endif
};

}  // namespace hepgen::HEPGEN_ISA
