// Compiled once per instruction set, without contraction of a * b + c into one rounding: integer arithmetic and single
// IEEE operations in a fixed order, so that every instruction set gives the same bits. See ecd_tile.hpp.
//
// Philox4x32-10 (Salmon et al., SC'11, doi:10.1145/2063384.2063405) with counter (block and tensor, step, kStream). A
// group of numbers is made of 16 blocks. double: number e is the half (e % 32) / 16 of block 16 (e / 32) + e % 16, and
// through AS 241 what philox.hpp makes of it. float: the word (e % 64) / 16 of block 16 (e / 64) + e % 16; its highest
// bit is the sign, the others the probability (k + 1/2) / 2^32 of the tail beyond, through the shorter form of AS 241.
#include "hepgen/as241.hpp"
#include "hepgen/ecd_tile.hpp"
#include "hepgen/philox_lanes.hpp"

namespace hepgen::HEPGEN_ISA {
namespace {

constexpr std::uint32_t kStream = 0x45434400;
constexpr int kTensorShift = 40;  // bits of the number of a block

typedef std::uint32_t Short __attribute__((vector_size(kVectorBytes / 2)));
typedef std::int32_t Int __attribute__((vector_size(kVectorBytes)));

template <class T>
HEPGEN_INLINE Vec<T> root(Vec<T> x) {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4) return _mm512_sqrt_ps(x);
    if constexpr (sizeof(T) == 8) return _mm512_sqrt_pd(x);
#elif defined(__AVX2__)
    if constexpr (sizeof(T) == 4) return _mm256_sqrt_ps(x);
    if constexpr (sizeof(T) == 8) return _mm256_sqrt_pd(x);
#else
    for (int i = 0; i < Lanes<T>::width; ++i)
        x[i] = sizeof(T) == 4 ? __builtin_sqrtf(float(x[i])) : __builtin_sqrt(x[i]);
    return x;
#endif
}

// The words of 16 blocks from `block` on, a multiple of 16.
HEPGEN_INLINE void noise_words(const NoiseKey& key, std::uint64_t block, PhiloxWords& words) {
    const std::uint64_t identity = key.tensor << kTensorShift | block;
    philox_words({std::uint32_t(identity), std::uint32_t(identity >> 32), key.step, kStream}, key.seed, words);
}

template <class T, int n>
HEPGEN_INLINE Vec<T> horner(const T (&c)[n], Vec<T> x) {
    Vec<T> sum = broadcast<T>(c[0]);
    for (int i = 1; i < n; ++i) sum = sum * x + c[i];
    return sum;
}

// ln x of normal positive numbers; see log_positive in philox.hpp.
HEPGEN_INLINE Vec<double> log_positive(Vec<double> x) {
    constexpr std::uint64_t half_root = 0x3FE6A09E667F3BCD;  // sqrt(1/2)
    const Long shifted = (Long)x + (0x3FF0000000000000 - half_root);
    const Vec<double> e = __builtin_convertvector((Lanes<double>::Ints)(shifted >> 52) - 1023, Vec<double>);
    const Vec<double> m = (Vec<double>)((shifted & 0x000FFFFFFFFFFFFF) + half_root);
    const Vec<double> s = (m - 1.0) / (m + 1.0);
    const Vec<double> s2 = s * s;
    const Vec<double> tail = s * (s2 * horner(as241::kLogSeries, s2)) + e * 1.9082149292705877e-10;
    return (2.0 * s + tail) + e * 0.693147180369123816490;
}

HEPGEN_INLINE Vec<float> log_positive(Vec<float> x) {
    constexpr std::int32_t half_root = 0x3F3504F3;
    constexpr float series[] = {2.0f / 9, 2.0f / 7, 2.0f / 5, 2.0f / 3};
    const Int shifted = (Int)x - half_root;
    const Vec<float> e = __builtin_convertvector(shifted >> 23, Vec<float>);
    const Vec<float> m = (Vec<float>)((shifted & 0x7FFFFF) + half_root);
    const Vec<float> s = (m - 1.0f) / (m + 1.0f);
    const Vec<float> s2 = s * s;
    const Vec<float> tail = s * (s2 * horner(series, s2)) + e * -2.12194440e-4f;
    return (2.0f * s + tail) + e * 0.693359375f;
}

template <class Mask>
HEPGEN_INLINE bool any(Mask mask) {
    bool found = false;
    for (unsigned i = 0; i < sizeof(mask) / sizeof(mask[0]); ++i) found |= mask[i] != 0;
    return found;
}

// bits: 64 random bits of each number
HEPGEN_INLINE Vec<double> normal_from(Long bits) {
    using namespace as241;
    constexpr std::uint64_t two_52 = 0x4330000000000000;  // its mantissa holds a whole number
    const Vec<double> p = (((Vec<double>)(bits >> 12 | two_52) - 0x1p52) + 0.5) * 0x1p-52;
    const Vec<double> q = p - 0.5;
    const auto central = (q < 0.0 ? -q : q) <= kCentreWidth;
    const Vec<double> c = kCentreOffset - q * q;
    const Vec<double> r = root<double>(-log_positive(q < 0.0 ? p : 1.0 - p));
    // one division for both: it is what costs most
    Vec<double> x = (central ? horner(kCentreTop, c) : horner(kNearTop, r - kNear)) /
                    (central ? horner(kCentreBottom, c) : horner(kNearBottom, r - kNear));
    if (any(r > kFar)) x = r <= kFar ? x : horner(kFarTop, r - kFar) / horner(kFarBottom, r - kFar);
    return central ? q * x : (q < 0.0 ? -x : x);
}

HEPGEN_INLINE Vec<float> normal_from(Int bits) {
    constexpr float centre_top[] = {5.9109374720e+1f, 1.5929113202e+2f, 5.0434271938e+1f, 3.3871327179e+0f};
    constexpr float centre_bottom[] = {6.7187563600e+1f, 7.8757757664e+1f, 1.7895169469e+1f, 1.0f};
    constexpr float tail_top[] = {1.7023821103e-1f, 1.3067284816e+0f, 2.7568153900e+0f, 1.4234372777e+0f};
    constexpr float tail_bottom[] = {1.2021132975e-1f, 7.3700164250e-1f, 1.0f};
    const Vec<float> p = __builtin_convertvector(bits & 0x7FFFFFFF, Vec<float>) * 0x1p-32f + 0x1p-33f;
    const Vec<float> q = 0.5f - p;
    const Vec<float> c = 0.180625f - q * q;
    const Vec<float> r = root<float>(-log_positive(p)) - 1.6f;  // below 5 as p >= 2^-33
    const auto central = q <= 0.425f;
    const Vec<float> ratio = (central ? horner(centre_top, c) : horner(tail_top, r)) /
                             (central ? horner(centre_bottom, c) : horner(tail_bottom, r));
    const Vec<float> x = central ? q * ratio : ratio;
    return bits < 0 ? -x : x;
}

}  // namespace

void normal_noise(const NoiseKey& key, std::size_t first, std::size_t count, float* out) {
    constexpr int numbers = kBlocks * kWords;
    for (std::size_t at = 0; at < count; at += numbers) {
        PhiloxWords words;
        noise_words(key, (first + at) / numbers * kBlocks, words);
        alignas(kVectorBytes) std::uint32_t bits[numbers];
        for (int w = 0; w < kWords; ++w) {
            for (int v = 0; v < kVectors; ++v) {
                *reinterpret_cast<Short*>(bits + w * kBlocks + v * kLongs) =
                    __builtin_convertvector(words[w][v], Short);
            }
        }
        for (int i = 0; i < numbers; i += Lanes<float>::width) {
            store(out + at + i, normal_from(*reinterpret_cast<const Int*>(bits + i)));
        }
    }
}

void normal_noise(const NoiseKey& key, std::size_t first, std::size_t count, double* out) {
    constexpr int numbers = kBlocks * kWords / 2;
    for (std::size_t at = 0; at < count; at += numbers) {
        PhiloxWords words;
        noise_words(key, (first + at) / numbers * kBlocks, words);
        for (int half = 0; half < 2; ++half) {
            for (int v = 0; v < kVectors; ++v) {
                const Long bits = words[2 * half + 1][v] << 32 | (words[2 * half][v] & 0xFFFFFFFF);
                store(out + at + half * kBlocks + v * kLongs, normal_from(bits));
            }
        }
    }
}

}  // namespace hepgen::HEPGEN_ISA
