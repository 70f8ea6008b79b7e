#include "hepgen/cuda/kde.hpp"

#include <tuple>

#include "cuda_bindings.hpp"

namespace hepgen::bindings {
namespace {

// x, weights, sum of the weights, their peak, rows, features
using Sample = std::tuple<Address, Address, Address, Address, std::int64_t, int>;
// grid, points, shared, bandwidth, pad
using Grid = std::tuple<Address, int, bool, Address, int>;

template <class T>
cuda::KdeSample<T> sample(const Sample& s) {
    const auto& [x, weights, sum, peak, rows, features] = s;
    require(rows > 0 && features > 0, "kde: there must be samples");
    return {at<const T>(x), at<const T>(weights), at<const double>(sum), at<const T>(peak), rows, features};
}

cuda::KdeGrid grid(const Grid& g) {
    const auto& [points, count, shared, bandwidth, pad] = g;
    return {at<const double>(points), count, shared, at<const double>(bandwidth), pad};
}

cuda::KdeGrid binned_grid(const Grid& g) {
    const cuda::KdeGrid to = grid(g);
    require(to.points > 1 && to.pad >= 0 && cuda::kde_bins(to) < (std::int64_t(1) << 30), "kde: too many bins");
    return to;
}

template <class T>
void density(const Sample& s, const Grid& g, Address axes, Address bins, Address density, Address stream) {
    cuda::kde_binned<T>(sample<T>(s), binned_grid(g), at<double>(axes), at<std::int64_t>(bins), at<T>(density),
                        stream_at(stream));
}

template <class T>
void gradients(const Sample& s, const Grid& g, Address slope, Address axes, Address tables, Address x, Address values,
               Address stream) {
    cuda::kde_binned_gradients<T>(sample<T>(s), binned_grid(g), at<const T>(slope), at<double>(axes), at<T>(tables),
                                  {at<T>(x), at<T>(values)}, stream_at(stream));
}

template <class T>
void divergence(const Grid& g, int features, Address axes, Address density, Address target, double floor, Address value,
                Address slope, Address stream) {
    cuda::kde_divergence<T>(binned_grid(g), features, at<const double>(axes), at<const T>(density),
                            at<const double>(target), floor, at<T>(value), at<T>(slope), stream_at(stream));
}

template <class T>
void exact(const Sample& s, const Grid& g, Address workspace, Address density, Address stream) {
    cuda::kde_exact<T>(sample<T>(s), grid(g), at<double>(workspace), at<T>(density), stream_at(stream));
}

template <class T>
void exact_gradients(const Sample& s, const Grid& g, Address slope, Address x, Address values, Address stream) {
    cuda::kde_exact_gradients<T>(sample<T>(s), grid(g), at<const T>(slope), {at<T>(x), at<T>(values)},
                                 stream_at(stream));
}

template <class... A>
void bind(py::module_& m, const char* name, void (*single)(A...), void (*wide)(A...)) {
    m.def(name, [=](bool is_double, A... arguments) { (is_double ? wide : single)(arguments...); });
}

}  // namespace

void bind_cuda_kde(py::module_& m) {
    m.attr("kde_axis_numbers") = cuda::kAxisNumbers;
    bind(m, "kde", density<float>, density<double>);
    bind(m, "kde_gradients", gradients<float>, gradients<double>);
    bind(m, "kde_divergence", divergence<float>, divergence<double>);
    bind(m, "kde_exact", exact<float>, exact<double>);
    bind(m, "kde_exact_gradients", exact_gradients<float>, exact_gradients<double>);
    m.def("kde_exact_workspace", [](bool is_double, const Sample& s, const Grid& g) {
        return is_double ? cuda::kde_exact_workspace(sample<double>(s), grid(g))
                         : cuda::kde_exact_workspace(sample<float>(s), grid(g));
    });
}

}  // namespace hepgen::bindings
