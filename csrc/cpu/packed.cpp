#include "hepgen/packed.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace hepgen {
namespace {

constexpr std::size_t kProbes = 128;
// What a point costs for each halving of its sample while it is grouped, in pairs summed: about 8 ns and 0.1 ns.
constexpr double kGroupingCost = 80;
constexpr double kMargin = 2;  // the saving must be so many times the cost: the estimate is a rough one

template <class T>
T finite_or_zero(T value) {
    return std::isfinite(value) ? value : T(0);
}

double halvings(std::size_t rows) {
    return rows > kGroup ? std::log2(double(rows) / double(kGroup)) : 0;
}

// Halves the points [begin, end) along the feature in which they extend farthest, and the halves again.
template <class T>
void split(const T* points, std::size_t stride, int features, std::size_t* begin, std::size_t* end) {
    while (std::size_t(end - begin) > kGroup) {
        const T* widest = points;
        T extent = -1;
        for (int f = 0; f < features; ++f) {
            const T* column = points + f * stride;
            T low = std::numeric_limits<T>::max(), high = std::numeric_limits<T>::lowest();
            for (const std::size_t* i = begin; i != end; ++i) {
                const T value = finite_or_zero(column[*i]);
                low = std::min(low, value);
                high = std::max(high, value);
            }
            if (high - low > extent) {
                extent = high - low;
                widest = column;
            }
        }
        const std::size_t count = end - begin;
        std::size_t* const middle = begin + round_up((count + 1) / 2, kGroup);
        std::nth_element(begin, middle, end, [widest](std::size_t a, std::size_t b) {
            const T left = finite_or_zero(widest[a]), right = finite_or_zero(widest[b]);
            return left != right ? left < right : a < b;  // one order on every machine
        });
        split(points, stride, features, begin, middle);
        begin = middle;
    }
}

template <class T>
void permute(Aligned<T>& columns, std::size_t stride, int count, const std::vector<std::size_t>& order) {
    Aligned<T> sorted = allocate<T>(stride * count);
    for (int c = 0; c < count; ++c) {
        const T* from = columns.get() + c * stride;
        T* to = sorted.get() + c * stride;
        for (std::size_t i = 0; i < order.size(); ++i) to[i] = from[order[i]];
        std::copy(from + order.size(), from + stride, to + order.size());
    }
    columns = std::move(sorted);
}

// The sides of a group's box, if each halving takes the longest side.
template <class T>
std::vector<double> group_sides(const Packed<T>& packed) {
    std::vector<double> sides;
    const std::size_t step = std::max<std::size_t>(packed.rows / kProbes, 1);
    for (int f = 0; f < packed.features; ++f) {
        const T* column = packed.points.get() + f * packed.stride;
        double low = 0, high = 0;
        for (std::size_t i = 0; i < packed.rows; i += step) {
            const double value = finite_or_zero(column[i]);
            low = i ? std::min(low, value) : value;
            high = i ? std::max(high, value) : value;
        }
        sides.push_back(high - low);
    }
    for (double left = halvings(packed.rows); left > 0; --left) *std::max_element(sides.begin(), sides.end()) /= 2;
    return sides;
}

// The share of pairs of groups that lie apart, judged by pairs of points in their middles.
template <class T>
double share_apart(const Packed<T>& x, const Packed<T>& y) {
    const std::vector<double> x_sides = group_sides(x), y_sides = group_sides(y);
    std::size_t count = 0;
    for (std::size_t probe = 0; probe < kProbes; ++probe) {
        const std::size_t i = probe * x.rows / kProbes, j = probe * 2654435761u % y.rows;
        double squares = 0;
        for (int f = 0; f < x.features; ++f) {
            const double between = double(x.points[f * x.stride + i]) - double(y.points[f * y.stride + j]);
            const double gap = std::abs(between) - (x_sides[f] + y_sides[f]) / 2;
            squares += gap > 0 ? gap * gap : 0;  // NaN is not above zero
        }
        count += squares > double(reach_squared<T>());
    }
    return double(count) / kProbes;
}

}  // namespace

template <class T>
Frame make_frame(const Sample<T>& x, std::vector<int> features, const std::vector<double>& sigma) {
    constexpr double log2_e = 1.4426950408889634074;
    Frame frame;
    for (std::size_t f = 0; f < features.size(); ++f) {
        double sum = 0;
        for (std::size_t i = 0; i < x.rows; ++i) sum += static_cast<double>(x.points[i * x.features + features[f]]);
        const double mean = x.rows ? sum / static_cast<double>(x.rows) : 0;
        frame.centre.push_back(std::isfinite(mean) ? mean : 0);
        frame.scale.push_back(std::sqrt(log2_e / sigma[f]));
        frame.gradient_factor.push_back(2 / (sigma[f] * frame.scale.back()));  // dk/dx_f = factor k (y_f - x_f) scaled
    }
    frame.feature = std::move(features);
    return frame;
}

template <class T>
Packed<T>::Packed(const Sample<T>& sample, const Frame& frame, bool weighted)
    : rows(sample.rows), stride(round_up(sample.rows, kPad)), features(int(frame.feature.size())) {
    points = allocate<T>(stride * features);
    T largest = 0;
    for (int f = 0; f < features; ++f) {
        T* out = points.get() + f * stride;
        for (std::size_t i = 0; i < rows; ++i) {
            const double given = static_cast<double>(sample.points[i * sample.features + frame.feature[f]]);
            const double scaled = (given - frame.centre[f]) * frame.scale[f];
            // the canonical NaN: see exp.hpp
            out[i] = std::isnan(scaled) ? std::numeric_limits<T>::quiet_NaN() : static_cast<T>(scaled);
            if (f == 0 && std::isfinite(out[i])) largest = std::max(largest, std::abs(out[i]));
        }
    }
    fill_margin(largest);
    weight_sum = static_cast<double>(rows);
    if (weighted) pack_weights(sample);
}

template <class T>
void Packed<T>::fill_margin(T largest) {
    const T far = std::max(T(4) * largest, T(1e6));
    for (int f = 0; f < features; ++f) {
        T* column = points.get() + f * stride;
        std::fill(column + rows, column + stride, f == 0 ? far : T(0));
    }
}

template <class T>
void Packed<T>::pack_weights(const Sample<T>& sample) {
    weights = allocate<T>(stride);
    std::fill(weights.get(), weights.get() + stride, T(0));
    weight_sum = 0;
    for (std::size_t i = 0; i < rows; ++i) {
        const T w = sample.weights ? sample.weights[i] : T(1);
        weights[i] = std::isnan(w) ? std::numeric_limits<T>::quiet_NaN() : w;
        weight_sum += static_cast<double>(w);
    }
}

template <class T>
void Packed<T>::group() {
    order.resize(rows);
    std::iota(order.begin(), order.end(), std::size_t{0});
    split(points.get(), stride, features, order.data(), order.data() + rows);
    permute(points, stride, features, order);
    if (weights) permute(weights, stride, 1, order);
}

template <class T>
Boxes<T> Packed<T>::boxes(std::size_t size) const {
    constexpr T infinity = std::numeric_limits<T>::infinity();
    Boxes<T> out{size, features, {}};
    for (std::size_t begin = 0; begin < rows; begin += size) {
        const std::size_t end = std::min(rows, begin + size);
        bool finite = true;
        for (std::size_t i = begin; weights && i < end; ++i) finite = finite && std::isfinite(weights[i]);
        const std::size_t corner = out.corners.size();
        out.corners.resize(corner + 2 * features);
        for (int f = 0; f < features; ++f) {
            const T* column = points.get() + f * stride;
            T low = column[begin], high = column[begin];
            for (std::size_t i = begin; i < end; ++i) {
                finite = finite && std::isfinite(column[i]);
                low = std::min(low, column[i]);
                high = std::max(high, column[i]);
            }
            out.corners[corner + f] = low;
            out.corners[corner + features + f] = high;
        }
        for (int f = 0; f < features && !finite; ++f) {
            out.corners[corner + f] = -infinity;
            out.corners[corner + features + f] = infinity;
        }
    }
    return out;
}

template <class T>
bool grouping_pays(const Packed<T>& x, const Packed<T>& y) {
    const double pairs = double(x.rows) * double(y.rows);
    const double cost =
        kMargin * kGroupingCost * (double(x.rows) * halvings(x.rows) + double(y.rows) * halvings(y.rows));
    return cost > 0 && pairs > cost && share_apart(x, y) * pairs > cost;
}

#define HEPGEN_INSTANTIATE(T)                                                                     \
    template Frame make_frame<T>(const Sample<T>&, std::vector<int>, const std::vector<double>&); \
    template struct Packed<T>;                                                                    \
    template bool grouping_pays<T>(const Packed<T>&, const Packed<T>&);
HEPGEN_INSTANTIATE(float)
HEPGEN_INSTANTIATE(double)

}  // namespace hepgen
