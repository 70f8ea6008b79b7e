#include "hepgen/panel_maker.hpp"

namespace hepgen {

Panels PanelMaker::make(int begin, int end, int from, int to, bool biased) {
    const int rows = end - begin;
    const int count = (rows + most_rows - 1) / most_rows;
    std::vector<Panel>& made = panels_.emplace_back();
    for (int i = 0; i < count; ++i) {
        const int first = begin + rows * i / count;
        Panel p{first, begin + rows * (i + 1) / count - first, from, to - from, packed_size, kNoBias, sums_size};
        packed_size += std::size_t(p.length) * p.count;
        if (biased) {
            p.bias = packed_size;
            packed_size += p.count;
            sums_size += std::size_t((p.length + lanes - 1) / lanes) * lanes * p.count;
        }
        made.push_back(p);
    }
    return {made.data(), count};
}

std::size_t PanelMaker::make_bias_sums(int units) {
    const std::size_t at = sums_size;
    sums_size += std::size_t(units) * lanes;
    return at;
}

}  // namespace hepgen
