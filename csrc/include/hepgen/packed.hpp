// Samples as the tiles of a kernel matrix want them: one column per feature, scaled, padded to whole vectors.
#pragma once

#include <cstddef>
#include <vector>

#include "hepgen/aligned.hpp"
#include "hepgen/gaussian_tile.hpp"

namespace hepgen {

inline constexpr std::size_t kGroup = 128;  // points of a grouped sample that share a box

template <class T>
struct Sample {
    const T* points;   // (rows, features), row-major
    const T* weights;  // (rows,), null for ones
    std::size_t rows;
    int features;
};

// The common frame of two samples: coordinate f becomes (x[feature_f] - centre_f) * scale_f, so that
// k_ij = 2^(-sum of squared differences). The centre keeps the digits of features that sit far from zero.
struct Frame {
    std::vector<int> feature;
    std::vector<double> centre, scale, gradient_factor;
};

// sigma: of these features, in the same order.
template <class T>
Frame make_frame(const Sample<T>& x, std::vector<int> features, const std::vector<double>& sigma);

// Boxes around consecutive points, so many at a time: the lower corner, then the upper one, of each. A box with a point
// or weight that is not finite has no bounds, so that it is never far from anything.
template <class T>
struct Boxes {
    std::size_t size = 0;  // points in each
    int features = 0;
    std::vector<T> corners;

    const T* at(std::size_t point) const { return corners.data() + point / size * 2 * features; }
};

template <class T>
struct Packed {
    std::size_t rows, stride;
    int features;
    double weight_sum;
    Aligned<T> points, weights;      // weights null where all are one
    std::vector<std::size_t> order;  // of a grouped sample: the row that each point came from; empty otherwise

    Packed(const Sample<T>& sample, const Frame& frame, bool weighted);

    std::size_t row_of(std::size_t point) const { return order.empty() ? point : order[point]; }

    // Reorders the points so that any kGroup consecutive ones, from a multiple of it, lie close together.
    void group();

    Boxes<T> boxes(std::size_t size) const;

  private:
    void pack_weights(const Sample<T>& sample);
    void fill_margin(T largest);
};

// The squared distance from which on every kernel value comes out as zero.
template <class T>
constexpr T reach_squared() {
    return sizeof(T) == 4 ? T(130) : T(1030);
}

// Whether no point of one box lies within reach of one of the other.
template <class T>
inline bool apart(const T* a, const T* b, int features) {
    T squares = 0;
    for (int f = 0; f < features; ++f) {
        const T above = a[f] - b[features + f], below = b[f] - a[features + f];
        const T gap = above > below ? above : below;
        squares += gap > 0 ? gap * gap : T(0);
    }
    return squares > reach_squared<T>();
}

// Whether grouping two samples is expected to save more than it costs, by pairs of points looked at here and there.
template <class T>
bool grouping_pays(const Packed<T>& x, const Packed<T>& y);

}  // namespace hepgen
