// Rows in groups whose partial sums are added in order: the groups depend on the sizes alone, never on the number of
// threads.
#pragma once

#include <algorithm>
#include <cstddef>

#include "hepgen/panels.hpp"
#include "hepgen/round_up.hpp"

namespace hepgen {

struct RowGroups {
    static constexpr std::size_t kMost = 32, kFewestTiles = 4;
    static constexpr std::size_t kSumsBytes = std::size_t(128) << 20;  // what the sums of all groups may take

    std::size_t tiles, count;

    RowGroups(std::size_t n, std::size_t bytes_per_group) : tiles(round_up(n, kTileEvents) / kTileEvents) {
        const std::size_t affordable = std::max<std::size_t>(4, kSumsBytes / (1 + bytes_per_group));
        count = std::clamp<std::size_t>(tiles / kFewestTiles, 1, std::min(kMost, affordable));
    }

    // Whole tiles, as many in each group as in any other but for one.
    std::size_t begin(std::size_t group) const { return tiles * group / count * kTileEvents; }
    std::size_t end(std::size_t group) const { return begin(group + 1); }
};

// Starting threads costs more than they bring for so few rows.
inline int threads_for(std::size_t n, int threads) {
    return n > 2 * kTileEvents ? std::max(threads, 1) : 1;
}

}  // namespace hepgen
