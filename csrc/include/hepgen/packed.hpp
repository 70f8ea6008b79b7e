// Samples as the tiles of a kernel matrix want them: one column per feature, scaled, padded to whole vectors.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "hepgen/aligned.hpp"
#include "hepgen/gaussian_tile.hpp"

namespace hepgen {

template <class T>
struct Sample {
    const T* points;   // (rows, features), row-major
    const T* weights;  // (rows,), null for ones
    std::size_t rows;
};

// The common frame of two samples: coordinate f becomes (x_f - centre_f) * scale_f, so that
// k_ij = 2^(-sum of squared differences). The centre keeps the digits of features that sit far from zero.
struct Frame {
    std::vector<double> centre, scale, gradient_factor;
};

template <class T>
Frame make_frame(const Sample<T>& x, const double* sigma, int features) {
    constexpr double log2_e = 1.4426950408889634074;
    Frame frame;
    for (int f = 0; f < features; ++f) {
        double sum = 0;
        for (std::size_t i = 0; i < x.rows; ++i) sum += static_cast<double>(x.points[i * features + f]);
        const double mean = x.rows ? sum / static_cast<double>(x.rows) : 0;
        frame.centre.push_back(std::isfinite(mean) ? mean : 0);
        frame.scale.push_back(std::sqrt(log2_e / sigma[f]));
        frame.gradient_factor.push_back(2 / (sigma[f] * frame.scale.back()));  // dk/dx_f = factor k (y_f - x_f) scaled
    }
    return frame;
}

// A sample as the tiles want it: one column per feature, scaled, padded.
template <class T>
struct Packed {
    std::size_t rows, stride;
    int features;
    double weight_sum;
    Aligned<T> points, weights;

    Packed(const Sample<T>& sample, const Frame& frame, bool weighted)
        : rows(sample.rows), stride(round_up(sample.rows, kPad)), features(int(frame.centre.size())) {
        points = allocate<T>(stride * features);
        T largest = 0;
        for (int f = 0; f < features; ++f) {
            T* out = points.get() + f * stride;
            std::fill(out + rows, out + stride, T(0));
            for (std::size_t i = 0; i < rows; ++i) {
                const double given = static_cast<double>(sample.points[i * features + f]);
                const double scaled = (given - frame.centre[f]) * frame.scale[f];
                // the canonical NaN: see exp.hpp
                out[i] = std::isnan(scaled) ? std::numeric_limits<T>::quiet_NaN() : static_cast<T>(scaled);
                if (f == 0 && std::isfinite(out[i])) largest = std::max(largest, std::abs(out[i]));
            }
        }
        const T far = std::max(T(4) * largest, T(1e6));
        std::fill(points.get() + rows, points.get() + stride, far);
        weight_sum = static_cast<double>(rows);
        if (weighted) pack_weights(sample);
    }

    void pack_weights(const Sample<T>& sample) {
        weights = allocate<T>(stride);
        std::fill(weights.get(), weights.get() + stride, T(0));
        weight_sum = 0;
        for (std::size_t i = 0; i < rows; ++i) {
            const T w = sample.weights ? sample.weights[i] : T(1);
            weights[i] = std::isnan(w) ? std::numeric_limits<T>::quiet_NaN() : w;
            weight_sum += static_cast<double>(w);
        }
    }
};

}  // namespace hepgen
