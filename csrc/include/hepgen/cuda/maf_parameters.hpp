// Which parameter of the flat vector stands at a place of the packed layers.
#pragma once

#include "hepgen/cuda/maf_tile.hpp"

namespace hepgen::cuda {

// Unit and degree of every position of every layer, in shared memory; unit -1 is padding.
struct UnitTables {
    int *units, *degrees;
    const MafLayout* layout;

    HEPGEN_HD static int size(const MafShape& shape, const MafLayout& layout) {
        return 16 * layout.tiles[shape.hidden + 2] + (shape.hidden + 2) * shape.features;
    }

    HEPGEN_FN int unit(int layer, int at) const { return units[8 * layout->tiles[layer] + at]; }
    HEPGEN_FN int degree(int layer, int at) const { return degrees[8 * layout->tiles[layer] + at]; }

    // whether the mask leaves the weight
    HEPGEN_FN bool sees(int layer, int at, int input) const { return degree(layer - 1, input) <= degree(layer, at); }
};

HEPGEN_FN UnitTables make_unit_tables(const MafShape& shape, const MafLayout& layout, int* memory) {
    const int layers = shape.hidden + 2, features = shape.features;
    const UnitTables to{memory, memory + 8 * layout.tiles[layers], &layout};
    int* stops = memory + 16 * layout.tiles[layers];
    for (int layer = int(threadIdx.x); layer < layers; layer += int(blockDim.x))
        fill_stops(shape, layer, stops + layer * features);
    __syncthreads();
    for (int layer = 0; layer < layers; ++layer) {
        for (int at = int(threadIdx.x); at < shape.padded[layer]; at += int(blockDim.x)) {
            int unit = at < shape.widths[layer] ? at : -1, degree = at / 2;
            if (layer == 0) {
                degree = max(at - shape.context + 1, 0);
            } else if (layer <= shape.hidden) {
                degree = degree_at(stops + layer * features, features, at);
                if (degree == features) {
                    unit = -1;
                } else if (shape.spread[layer]) {
                    const int begin = degree == 0 ? 0 : stops[layer * features + degree - 1];
                    unit = units_below(shape, layer, degree) + at - begin;
                    if (unit >= units_below(shape, layer, degree + 1)) unit = -1;
                }
            }
            to.units[8 * layout.tiles[layer] + at] = unit;
            to.degrees[8 * layout.tiles[layer] + at] = degree;
        }
    }
    __syncthreads();
    return to;
}

// Offsets in one block's parameters.
struct ParameterPlaces {
    const MafShape& shape;
    std::int64_t size;

    HEPGEN_FN explicit ParameterPlaces(const MafShape& shape_) : shape(shape_), size(begin(shape_.hidden + 2)) {}

    HEPGEN_FN std::int64_t begin(int layer) const {
        std::int64_t at = 0;
        for (int l = 1; l < layer; ++l) at += shape.widths[l] * (std::int64_t(shape.widths[l - 1]) + 1);
        return at;
    }

    // the context's weights come after the first bias
    HEPGEN_FN int columns(int layer) const { return layer == 1 ? shape.features : shape.widths[layer - 1]; }

    HEPGEN_FN std::int64_t bias(int layer) const {
        return begin(layer) + std::int64_t(shape.widths[layer]) * columns(layer);
    }

    // -1 for padding
    HEPGEN_FN std::int64_t weight(const UnitTables& units, int layer, int at, int input) const {
        const int unit = units.unit(layer, at), seen = units.unit(layer - 1, input);
        if (unit < 0 || seen < 0) return -1;
        if (layer > 1) return begin(layer) + std::int64_t(unit) * columns(layer) + seen;
        if (seen < shape.context) return bias(1) + shape.widths[1] + std::int64_t(unit) * shape.context + seen;
        return std::int64_t(unit) * shape.features + seen - shape.context;
    }
};

}  // namespace hepgen::cuda
