// Philox4x32-10 (Salmon et al., SC'11, doi:10.1145/2063384.2063405) for 16 counters at once, the same words for every
// instruction set; philox.hpp has the one for a single counter.
#pragma once

#include "hepgen/simd.hpp"

namespace hepgen::HEPGEN_ISA {

typedef std::uint64_t Long __attribute__((vector_size(kVectorBytes)));

inline constexpr int kBlocks = 16, kWords = 4;  // counters, and words that each gives
inline constexpr int kLongs = kVectorBytes / 8;
inline constexpr int kVectors = kBlocks / kLongs;  // of a word of all blocks

// Word w of block i is in the low half of a lane; what is above it means nothing.
typedef Long PhiloxWords[kWords][kVectors];

struct PhiloxCounter {
    std::uint32_t word0, word1, word2, word3;
};

// The product of the low halves.
HEPGEN_INLINE Long multiply(Long a, std::uint32_t b) {
    const Long wide = b - Long{};
#if defined(__AVX512F__)
    return (Long)_mm512_mul_epu32((__m512i)a, (__m512i)wide);
#elif defined(__AVX2__)
    return (Long)_mm256_mul_epu32((__m256i)a, (__m256i)wide);
#elif defined(__SSE2__)
    return (Long)_mm_mul_epu32((__m128i)a, (__m128i)wide);
#else
    return (a & 0xFFFFFFFF) * wide;
#endif
}

// Of the counters from `first` on, whose word 0 counts, below 2^32 to the last.
HEPGEN_INLINE void philox_words(const PhiloxCounter& first, std::uint64_t seed, PhiloxWords& c) {
    Long lane;
    for (int i = 0; i < kLongs; ++i) lane[i] = i;
    for (int v = 0; v < kVectors; ++v) {
        c[0][v] = lane + (std::uint64_t{first.word0} + v * kLongs);
        c[1][v] = std::uint64_t{first.word1} - Long{};
        c[2][v] = std::uint64_t{first.word2} - Long{};
        c[3][v] = std::uint64_t{first.word3} - Long{};
    }
    std::uint32_t key0 = std::uint32_t(seed), key1 = std::uint32_t(seed >> 32);
    for (int round = 0; round < 10; ++round) {
#pragma GCC unroll 16
        for (int v = 0; v < kVectors; ++v) {
            // what is above 32 bits of a word is never read
            const Long p0 = multiply(c[0][v], 0xD2511F53), p1 = multiply(c[2][v], 0xCD9E8D57);
            c[0][v] = (p1 >> 32) ^ c[1][v] ^ std::uint64_t{key0};
            c[1][v] = p1;
            c[2][v] = (p0 >> 32) ^ c[3][v] ^ std::uint64_t{key1};
            c[3][v] = p0;
        }
        key0 += 0x9E3779B9;
        key1 += 0xBB67AE85;
    }
}

}  // namespace hepgen::HEPGEN_ISA
