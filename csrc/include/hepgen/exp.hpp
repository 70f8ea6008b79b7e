// 2^x for x <= 0, in vectors: the only transcendental function the Gaussian kernels need.
//
// x = n + f with n the nearest integer, so abs(f) <= 1/2; 2^f = 1 + f q(f), q a minimax polynomial of the relative
// error (float: degree 5 in all, 9.2e-8; double: degree 11, 8.5e-18); the factor 2^n goes into the exponent bits.
// 2^0 is exactly 1, 2^x below the smallest normal number ends at exactly 0, NaN stays NaN.
#pragma once

#include "hepgen/simd.hpp"

namespace hepgen::HEPGEN_ISA {

HEPGEN_INLINE Vec<float> exp2_fraction(Vec<float> f) {
    Vec<float> p = f * 1.326472749e-3f + 9.671512642e-3f;
    p = p * f + 5.550733742e-2f;
    p = p * f + 2.402224209e-1f;
    p = p * f + 6.931469776e-1f;
    return p * f + 1.0f;
}

HEPGEN_INLINE Vec<double> exp2_fraction(Vec<double> f) {
    Vec<double> p = f * 4.4549605981865183938e-10 + 7.0725859492692236999e-9;
    p = p * f + 1.0178062445845773521e-7;
    p = p * f + 1.3215442587921689653e-6;
    p = p * f + 1.5252733829836118394e-5;
    p = p * f + 1.5403530441736050155e-4;
    p = p * f + 1.333355814641693531e-3;
    p = p * f + 9.6181291076068885273e-3;
    p = p * f + 5.5504108664821594339e-2;
    p = p * f + 2.402265069591009822e-1;
    p = p * f + 6.9314718055994530942e-1;
    return p * f + 1.0;
}

// The second operand comes back where it is NaN.
template <class T>
HEPGEN_INLINE Vec<T> at_least(T low, Vec<T> x) {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4) return _mm512_max_ps(broadcast<T>(low), x);
    if constexpr (sizeof(T) == 8) return _mm512_max_pd(broadcast<T>(low), x);
#elif defined(__AVX2__)
    if constexpr (sizeof(T) == 4) return _mm256_max_ps(broadcast<T>(low), x);
    if constexpr (sizeof(T) == 8) return _mm256_max_pd(broadcast<T>(low), x);
#else
    return x < low ? broadcast<T>(low) : x;
#endif
}

template <class T>
struct FloatFormat;
template <>
struct FloatFormat<float> {
    static constexpr float lowest_exponent = -127.0f;
    static constexpr float round_to_integer = 12582912.0f;  // 1.5 * 2^23: adding it rounds, its low bits hold n
    static constexpr int mantissa_bits = 23;
};
template <>
struct FloatFormat<double> {
    static constexpr double lowest_exponent = -1023.0;
    static constexpr double round_to_integer = 6755399441055744.0;  // 1.5 * 2^52
    static constexpr int mantissa_bits = 52;
};

template <class T>
HEPGEN_INLINE Vec<T> exp2_by_bits(Vec<T> x) {
    using Format = FloatFormat<T>;
    using Ints = typename Lanes<T>::Ints;
    x = at_least<T>(Format::lowest_exponent, x);
    const Vec<T> shifted = x + Format::round_to_integer;
    const Vec<T> n = shifted - Format::round_to_integer;
    const Vec<T> p = exp2_fraction(x - n);
    // a NaN survives the integer addition because points enter with the canonical NaN, whose low bits are zero
    return (Vec<T>)((Ints)p + ((Ints)shifted << Format::mantissa_bits));
}

#if defined(__AVX512F__)
// With f = x - floor(x) in [0, 1) the hardware takes x itself for the exponent: two instructions beside the polynomial.
HEPGEN_INLINE Vec<float> exp2_by_scaling(Vec<float> x) {
    const Vec<float> f = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    Vec<float> p = f * 1.867130108e-3f + 9.017030226e-3f;  // relative error 8.3e-8
    p = p * f + 5.579991319e-2f;
    p = p * f + 2.401644501e-1f;
    p = p * f + 6.931513118e-1f;
    return _mm512_scalef_ps(p * f + 1.0f, x);
}

HEPGEN_INLINE Vec<double> exp2_by_scaling(Vec<double> x) {
    const Vec<double> f = _mm512_reduce_pd(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    return _mm512_scalef_pd(exp2_fraction(f), x - f);
}
#endif

// 2^x, x <= 0 or NaN.
template <class T>
HEPGEN_INLINE Vec<T> exp2_nonpositive(Vec<T> x) {
#if defined(__AVX512F__)
    return exp2_by_scaling(x);
#else
    return exp2_by_bits<T>(x);
#endif
}

}  // namespace hepgen::HEPGEN_ISA
