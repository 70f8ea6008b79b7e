#include "hepgen/mmd.hpp"

#include <pybind11/stl.h>

#include <cmath>
#include <optional>
#include <vector>

#include "bindings.hpp"

namespace hepgen::bindings {
namespace {

template <class T>
using Weights = std::optional<Array<T>>;

template <class T>
Sample<T> sample(const Array<T>& points, const Weights<T>& weights, const Array<double>& sigma) {
    require(points.ndim() == 2 && points.shape(1) > 0, "points must have shape (rows, features)");
    require(sigma.ndim() == 2 && sigma.shape(0) >= 1 && sigma.shape(1) == points.shape(1),
            "sigma must have shape (bandwidths, features)");
    require(!weights || (weights->ndim() == 1 && weights->shape(0) == points.shape(0)),
            "weights must hold one value per row");
    for (py::ssize_t k = 0; k < sigma.size(); ++k) {
        const double s = sigma.data()[k];
        require(s > 0 && std::isfinite(s) && std::isfinite(1 / s), "bandwidth must be positive and finite");
    }
    return {points.data(), weights ? weights->data() : nullptr, static_cast<std::size_t>(points.shape(0)),
            static_cast<int>(points.shape(1))};
}

KernelOptions kernel_options(const Array<double>& sigma, bool per_feature, std::optional<bool> group, int threads) {
    const Grouping grouping = !group ? Grouping::automatic : *group ? Grouping::always : Grouping::never;
    return {{sigma.data(), static_cast<int>(sigma.shape(0))}, per_feature, grouping, threads};
}

// An array to fill where it is wanted, an empty one otherwise.
template <class T>
Array<T> output(bool wanted, std::vector<py::ssize_t> shape) {
    return wanted ? Array<T>(shape) : Array<T>(0);
}

template <class T>
T* pointer(Array<T>& array, bool wanted) {
    return wanted ? array.mutable_data() : nullptr;
}

template <class T>
py::tuple sums(const Array<T>& x, const Array<T>& y, const Array<double>& sigma, const Weights<T>& y_weights,
               bool gradient, int threads, std::optional<bool> group) {
    const Sample<T> sx = sample<T>(x, std::nullopt, sigma), sy = sample<T>(y, y_weights, sigma);
    Array<T> rows = output<T>(true, {x.shape(0)}), points = output<T>(gradient, {x.shape(0), x.shape(1)});
    const KernelGradients<T> out{rows.mutable_data(), pointer(points, gradient)};
    const KernelOptions options = kernel_options(sigma, false, group, threads);
    {
        py::gil_scoped_release release;
        gaussian_sums<T>(sx, sy, options, out);
    }
    return py::make_tuple(rows, points);
}

template <class T>
double mean(const Array<T>& x, const Array<double>& sigma, const Weights<T>& weights, bool per_feature, int threads,
            std::optional<bool> group) {
    const Sample<T> sx = sample<T>(x, weights, sigma);
    const KernelOptions options = kernel_options(sigma, per_feature, group, threads);
    py::gil_scoped_release release;
    return kernel_mean<T>(sx, options);
}

// wanted: 1 gradient of x, 2 of y, 4 of the weights of x, 8 of those of y
template <class T>
py::tuple mmd(const Array<T>& x, const Array<T>& y, const Array<double>& sigma, const Weights<T>& x_weights,
              const Weights<T>& y_weights, double cross_weight, bool per_feature, std::optional<double> y_mean,
              int wanted, int threads, std::optional<bool> group) {
    const Sample<T> sx = sample<T>(x, x_weights, sigma), sy = sample<T>(y, y_weights, sigma);
    Array<T> gx = output<T>(wanted & 1, {x.shape(0), x.shape(1)}), gy = output<T>(wanted & 2, {y.shape(0), y.shape(1)});
    Array<T> gwx = output<T>(wanted & 4, {x.shape(0)}), gwy = output<T>(wanted & 8, {y.shape(0)});
    const MmdGradients<T> out{pointer(gx, wanted & 1), pointer(gy, wanted & 2), pointer(gwx, wanted & 4),
                              pointer(gwy, wanted & 8)};
    const KernelOptions options = kernel_options(sigma, per_feature, group, threads);
    double value;
    {
        py::gil_scoped_release release;
        value = mmd2<T>(sx, sy, options, cross_weight, y_mean, out);
    }
    return py::make_tuple(value, gx, gy, gwx, gwy);
}

template <class T>
void bind_type(py::module_& m) {
    using namespace py::literals;
    m.def("gaussian_sums", &sums<T>, py::arg("x").noconvert(), py::arg("y").noconvert(), "sigma"_a,
          py::arg("y_weights").noconvert(), "gradient"_a, "threads"_a, "group"_a = py::none());
    m.def("kernel_mean", &mean<T>, py::arg("x").noconvert(), "sigma"_a, py::arg("weights").noconvert(), "per_feature"_a,
          "threads"_a, "group"_a = py::none());
    m.def("mmd2", &mmd<T>, py::arg("x").noconvert(), py::arg("y").noconvert(), "sigma"_a,
          py::arg("x_weights").noconvert(), py::arg("y_weights").noconvert(), "cross_weight"_a, "per_feature"_a,
          "y_mean"_a, "wanted"_a, "threads"_a, "group"_a = py::none());
}

}  // namespace

void bind_mmd(py::module_& m) {
    bind_type<float>(m);
    bind_type<double>(m);
}

}  // namespace hepgen::bindings
