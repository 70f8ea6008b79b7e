#include "hepgen/kde.hpp"

#include <pybind11/stl.h>

#include <cmath>
#include <vector>

#include "bindings.hpp"

namespace hepgen::bindings {
namespace {

template <class T>
using Weights = std::optional<Array<T>>;

template <class T>
KdeInput<T> input(const Array<T>& samples, const Array<double>& grid, const Array<double>& bandwidth,
                  const Weights<T>& weights) {
    require(samples.ndim() == 2 && samples.shape(1) > 0, "samples must have shape (rows, features)");
    const py::ssize_t features = samples.shape(1);
    require(grid.ndim() == 1 || (grid.ndim() == 2 && grid.shape(1) == features),
            "grid must have shape (points,) or (points, features)");
    require(bandwidth.ndim() == 1 && bandwidth.shape(0) == features, "bandwidth must hold one value per feature");
    require(!weights || (weights->ndim() == 1 && weights->shape(0) == samples.shape(0)),
            "weights must hold one value per sample");
    for (py::ssize_t f = 0; f < features; ++f) {
        const double b = bandwidth.at(f);
        require(b > 0 && std::isfinite(b) && std::isfinite(1 / b), "bandwidth must be positive and finite");
    }
    for (py::ssize_t g = 0; g < grid.size(); ++g) require(std::isfinite(grid.data()[g]), "grid must be finite");
    KdeInput<T> in{};
    in.x = samples.data();
    in.weights = weights ? weights->data() : nullptr;
    in.rows = static_cast<std::size_t>(samples.shape(0));
    in.features = static_cast<std::size_t>(features);
    in.grid = grid.data();
    in.points = static_cast<std::size_t>(grid.shape(0));
    in.shared = grid.ndim() == 1;
    in.bandwidth = bandwidth.data();
    return in;
}

// Room for the gradients that are wanted: 1 samples, 2 weights.
template <class T>
struct Output {
    Array<T> x, weights;
    KdeGradients<T> to;

    Output(const KdeInput<T>& in, int wanted)
        : x({wanted & 1 ? in.rows : 0, in.features}),
          weights(wanted & 2 ? in.rows : 0),
          to{wanted & 1 ? x.mutable_data() : nullptr, wanted & 2 ? weights.mutable_data() : nullptr} {}
};

template <class T>
Array<T> density(bool binned, const Array<T>& samples, const Array<double>& grid, const Array<double>& bandwidth,
                 const Weights<T>& weights, int threads) {
    const KdeInput<T> in = input(samples, grid, bandwidth, weights);
    Array<T> out({in.features, in.points});
    T* to = out.mutable_data();
    py::gil_scoped_release release;
    binned ? kde_binned<T>(in, threads, to) : kde_exact<T>(in, threads, to);
    return out;
}

template <class T>
py::tuple gradients(bool binned, const Array<T>& samples, const Array<double>& grid, const Array<double>& bandwidth,
                    const Weights<T>& weights, const Array<T>& density, const Array<T>& slope, int wanted,
                    int threads) {
    const KdeInput<T> in = input(samples, grid, bandwidth, weights);
    for (const Array<T>* array : {&density, &slope}) {
        require(array->ndim() == 2 && array->shape(0) == samples.shape(1) && array->shape(1) == grid.shape(0),
                "density and slope must have shape (features, points)");
    }
    Output<T> out(in, wanted);
    {
        const T *values = density.data(), *slopes = slope.data();
        py::gil_scoped_release release;
        binned ? kde_binned_gradients<T>(in, values, slopes, threads, out.to)
               : kde_exact_gradients<T>(in, values, slopes, threads, out.to);
    }
    return py::make_tuple(out.x, out.weights);
}

template <class T>
std::size_t reach(const Array<T>& samples, const Array<double>& grid, const Array<double>& bandwidth) {
    return kde_reach<T>(input<T>(samples, grid, bandwidth, std::nullopt));
}

// Of the counts, (points + 2 reach + 1).
template <class T>
std::size_t bins(const KdeInput<T>& in, std::size_t reach) {
    constexpr std::size_t most = std::size_t(1) << 22;  // as kde_reach gives them
    require(reach > 0 && reach <= most && in.points <= most, "reach must be what kde_reach gives");
    return in.points + 2 * reach + 1;
}

template <class T>
Array<double> counts(const Array<T>& samples, const Array<double>& grid, const Array<double>& bandwidth,
                     const Weights<T>& weights, std::size_t reach, int threads) {
    const KdeInput<T> in = input(samples, grid, bandwidth, weights);
    Array<double> out({in.features, bins(in, reach)});
    double* to = out.mutable_data();
    py::gil_scoped_release release;
    kde_counts<T>(in, reach, threads, to);
    return out;
}

template <class T>
py::tuple counts_gradients(const Array<T>& samples, const Array<double>& grid, const Array<double>& bandwidth,
                           const Weights<T>& weights, std::size_t reach, const Array<double>& field, int wanted,
                           int threads) {
    const KdeInput<T> in = input(samples, grid, bandwidth, weights);
    require(field.ndim() == 2 && field.shape(0) == samples.shape(1) &&
                field.shape(1) == static_cast<py::ssize_t>(bins(in, reach)),
            "field must have the shape of the counts");
    Output<T> out(in, wanted);
    {
        const double* values = field.data();
        py::gil_scoped_release release;
        kde_counts_gradients<T>(in, reach, values, threads, out.to);
    }
    return py::make_tuple(out.x, out.weights);
}

template <class T>
py::tuple divergence(const Array<T>& samples, const Array<double>& grid, const Array<double>& bandwidth,
                     const Array<double>& target, const Weights<T>& weights, double floor, int threads) {
    const KdeInput<T> in = input(samples, grid, bandwidth, weights);
    require(target.ndim() == 2 && target.shape(0) == samples.shape(1) && target.shape(1) == grid.shape(0),
            "target must have shape (features, points)");
    Array<T> density({in.features, in.points}), slope({in.features, in.points});
    double value;
    {
        const double* masses = target.data();
        T *to_density = density.mutable_data(), *to_slope = slope.mutable_data();
        py::gil_scoped_release release;
        value = kde_divergence<T>(in, masses, floor, threads, to_density, to_slope);
    }
    return py::make_tuple(value, density, slope);
}

template <class T>
void bind_type(py::module_& m) {
    using namespace py::literals;
    const auto samples = py::arg("samples").noconvert();
    const auto weights = py::arg("weights").noconvert();
    m.def("kde", &density<T>, "binned"_a, samples, "grid"_a, "bandwidth"_a, weights, "threads"_a);
    m.def("kde_gradients", &gradients<T>, "binned"_a, samples, "grid"_a, "bandwidth"_a, weights, "density"_a, "slope"_a,
          "wanted"_a, "threads"_a);
    m.def("kde_reach", &reach<T>, samples, "grid"_a, "bandwidth"_a);
    m.def("kde_counts", &counts<T>, samples, "grid"_a, "bandwidth"_a, weights, "reach"_a, "threads"_a);
    m.def("kde_counts_gradients", &counts_gradients<T>, samples, "grid"_a, "bandwidth"_a, weights, "reach"_a, "field"_a,
          "wanted"_a, "threads"_a);
    m.def("kde_divergence", &divergence<T>, samples, "grid"_a, "bandwidth"_a, "target"_a, weights, "floor"_a,
          "threads"_a);
}

}  // namespace

void bind_kde(py::module_& m) {
    bind_type<float>(m);
    bind_type<double>(m);
}

}  // namespace hepgen::bindings
