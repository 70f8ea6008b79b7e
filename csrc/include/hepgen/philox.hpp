// Random numbers from a counter: Philox4x32-10 (Salmon et al., SC'11, doi:10.1145/2063384.2063405). A number depends on
// (seed, stream, identity, column) and on nothing else, so chunks, threads and machines all draw the same.
//
// Only integer arithmetic and single IEEE operations (+ - * / sqrt) in a fixed order are used: whoever compiles this
// without contracting a * b + c gets the same bits, and so does hepgen/kernels/philox.py in numpy.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "hepgen/as241.hpp"
#include "hepgen/host_device.hpp"

namespace hepgen {

using Philox4x32 = std::array<std::uint32_t, 4>;

// The words in the place of their counter.
HEPGEN_HD inline void philox_rounds(std::uint32_t (&words)[4], std::uint32_t key0, std::uint32_t key1) {
    for (int round = 0; round < 10; ++round) {
        const std::uint64_t p0 = std::uint64_t{0xD2511F53} * words[0];
        const std::uint64_t p1 = std::uint64_t{0xCD9E8D57} * words[2];
        words[0] = static_cast<std::uint32_t>(p1 >> 32) ^ words[1] ^ key0;
        words[1] = static_cast<std::uint32_t>(p1);
        words[2] = static_cast<std::uint32_t>(p0 >> 32) ^ words[3] ^ key1;
        words[3] = static_cast<std::uint32_t>(p0);
        key0 += 0x9E3779B9;
        key1 += 0xBB67AE85;
    }
}

inline Philox4x32 philox4x32(Philox4x32 counter, std::uint32_t key0, std::uint32_t key1) {
    std::uint32_t words[] = {counter[0], counter[1], counter[2], counter[3]};
    philox_rounds(words, key0, key1);
    return {words[0], words[1], words[2], words[3]};
}

// The finaliser of splitmix64 (Steele, Lea, Flood, OOPSLA 2014).
inline std::uint64_t mix64(std::uint64_t z) {
    z += 0x9E3779B97F4A7C15;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    return z ^ (z >> 31);
}

// One 64-bit number for the k words that name an event or an object in it.
inline std::uint64_t hash_identity(const std::uint64_t* words, std::size_t k) {
    std::uint64_t hash = mix64(k);
    for (std::size_t i = 0; i < k; ++i) hash = mix64(hash ^ words[i]);
    return hash;
}

// A 64-bit integer into (0, 1): the midpoints of 2^52 equal steps, so neither 0 nor 1, and 1 - u is exact.
inline double open_unit(std::uint64_t bits) {
    return (static_cast<double>(bits >> 12) + 0.5) * 0x1p-52;
}

// Uniforms 2 b and 2 b + 1 of an identity.
inline std::array<double, 2> uniform_pair(std::uint64_t identity, std::uint32_t block, std::uint64_t seed,
                                          std::uint32_t stream) {
    const Philox4x32 r =
        philox4x32({static_cast<std::uint32_t>(identity), static_cast<std::uint32_t>(identity >> 32), block, stream},
                   static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32));
    return {open_unit(std::uint64_t{r[1]} << 32 | r[0]), open_unit(std::uint64_t{r[3]} << 32 | r[2])};
}

template <std::size_t N>
inline double horner(const double (&c)[N], double x) {
    double sum = c[0];
    for (std::size_t i = 1; i < N; ++i) sum = sum * x + c[i];
    return sum;
}

// ln x of a normal positive number, to about an ulp: x = 2^e m, ln m = 2 artanh((m - 1) / (m + 1)).
inline double log_positive(double x) {
    std::uint64_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    const std::uint64_t shifted = bits + (0x3FF0000000000000 - 0x3FE6A09E667F3BCD);  // m in [sqrt(1/2), sqrt(2))
    const double e = static_cast<double>(static_cast<std::int64_t>(shifted >> 52) - 1023);
    bits = (shifted & 0x000FFFFFFFFFFFFF) + 0x3FE6A09E667F3BCD;
    double m;
    std::memcpy(&m, &bits, sizeof m);
    const double s = (m - 1.0) / (m + 1.0);
    const double s2 = s * s;
    const double tail = s * (s2 * horner(as241::kLogSeries, s2)) + e * 1.9082149292705877e-10;  // ln 2, low part
    return (2.0 * s + tail) + e * 0.693147180369123816490;                                      // ln 2, high part
}

// The quantile of the standard normal distribution, 0 < p < 1, relative error about 1e-15: see as241.hpp.
inline double normal_quantile(double p) {
    using namespace as241;
    const double q = p - 0.5;
    if (std::abs(q) <= kCentreWidth) {
        const double r = kCentreOffset - q * q;
        return q * (horner(kCentreTop, r) / horner(kCentreBottom, r));
    }
    const double r = std::sqrt(-log_positive(q < 0 ? p : 1.0 - p));
    const double x = r <= kFar ? horner(kNearTop, r - kNear) / horner(kNearBottom, r - kNear)
                               : horner(kFarTop, r - kFar) / horner(kFarBottom, r - kFar);
    return q < 0 ? -x : x;
}

enum class Distribution { uniform, normal };

// out (rows, columns) row-major; identity (rows, words).
void philox_fill(Distribution distribution, const std::uint64_t* identity, std::size_t rows, std::size_t words,
                 std::size_t columns, std::uint64_t seed, std::uint32_t stream, int threads, double* out);

}  // namespace hepgen
