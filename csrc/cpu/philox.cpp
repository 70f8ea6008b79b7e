// Compiled without contraction of a * b + c into one rounding: see philox.hpp.
#include "hepgen/philox.hpp"

#include <algorithm>

#include "hepgen/parallel.hpp"

namespace hepgen {
namespace {

constexpr std::size_t kNumbersPerTask = 16384;

void fill_row(Distribution distribution, std::uint64_t identity, std::size_t columns, std::uint64_t seed,
              std::uint32_t stream, double* out) {
    for (std::size_t column = 0; column < columns; column += 2) {
        const auto pair = uniform_pair(identity, static_cast<std::uint32_t>(column / 2), seed, stream);
        for (std::size_t i = 0; i < std::min<std::size_t>(2, columns - column); ++i) {
            out[column + i] = distribution == Distribution::normal ? normal_quantile(pair[i]) : pair[i];
        }
    }
}

}  // namespace

void philox_fill(Distribution distribution, const std::uint64_t* identity, std::size_t rows, std::size_t words,
                 std::size_t columns, std::uint64_t seed, std::uint32_t stream, int threads, double* out) {
    const std::size_t step = std::max<std::size_t>(1, kNumbersPerTask / std::max<std::size_t>(columns, 1));
    parallel_tasks(threads, (rows + step - 1) / step, [&](std::size_t task) {
        const std::size_t end = std::min(rows, (task + 1) * step);
        for (std::size_t i = task * step; i < end; ++i) {
            fill_row(distribution, hash_identity(identity + i * words, words), columns, seed, stream,
                     out + i * columns);
        }
    });
}

}  // namespace hepgen
