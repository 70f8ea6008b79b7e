#include "hepgen/cuda/mmd.hpp"

#include <tuple>

#include "cuda_bindings.hpp"

namespace hepgen::bindings {
namespace {

// points, weights, sum of the weights, rows
using Sample = std::tuple<Address, Address, Address, std::int64_t>;
// centre, sigma, ratios, counts; features, parts, gaussians, per_feature, boxes
using Kernel = std::tuple<Address, Address, Address, Address, int, int, int, bool, bool>;

template <class T>
cuda::MmdSample<T> sample(const Sample& s) {
    const auto& [points, weights, weight_sum, rows] = s;
    return {at<const T>(points), at<const T>(weights), at<const double>(weight_sum), rows};
}

cuda::MmdKernel kernel(const Kernel& k) {
    const auto& [centre, sigma, ratios, counts, features, parts, gaussians, per_feature, boxes] = k;
    require(features > 0 && parts > 0 && gaussians > 0, "mmd: there must be features and bandwidths");
    return {at<const double>(centre),
            at<const double>(sigma),
            at<const double>(ratios),
            at<const std::int32_t>(counts),
            features,
            parts,
            gaussians,
            per_feature,
            boxes};
}

void check_rows(const Sample& s) {
    require(std::get<3>(s) < (std::int64_t(1) << 30), "mmd: a sample may have at most 2^30 rows on a GPU");
}

// value, constant, x, y, weights of x, weights of y: 0 where not wanted
using Results = std::tuple<Address, Address, Address, Address, Address, Address>;

template <class T>
std::size_t mmd2(const Sample& x, const Sample& y, const Kernel& k, double cross_weight, Address y_mean,
                 const Results& out, Address workspace, Address stream) {
    const auto& [value, constant, gx, gy, gwx, gwy] = out;
    const cuda::MmdTask<T> task{sample<T>(x),
                                sample<T>(y),
                                kernel(k),
                                cross_weight,
                                at<const double>(y_mean),
                                {at<T>(value), at<double>(constant), at<T>(gx), at<T>(gy), at<T>(gwx), at<T>(gwy)}};
    return cuda::mmd2(task, at<void>(workspace), stream_at(stream));
}

template <class T>
std::size_t gaussian_sums(const Sample& x, const Sample& y, const Kernel& k, Address sums, Address points,
                          Address workspace, Address stream) {
    const cuda::GaussianSumsTask<T> task{sample<T>(x), sample<T>(y), kernel(k), at<T>(sums), at<T>(points)};
    return cuda::gaussian_sums(task, at<void>(workspace), stream_at(stream));
}

}  // namespace

// All return the size in bytes of the workspace, and do only that where its address is 0.
void bind_cuda_mmd(py::module_& m) {
    m.def("mmd2", [](bool wide, const Sample& x, const Sample& y, const Kernel& k, double cross_weight, Address y_mean,
                     const Results& out, Address workspace, Address stream) {
        check_rows(x);
        check_rows(y);
        return (wide ? mmd2<double> : mmd2<float>)(x, y, k, cross_weight, y_mean, out, workspace, stream);
    });
    m.def("gaussian_sums", [](bool wide, const Sample& x, const Sample& y, const Kernel& k, Address sums,
                              Address points, Address workspace, Address stream) {
        check_rows(x);
        check_rows(y);
        return (wide ? gaussian_sums<double> : gaussian_sums<float>)(x, y, k, sums, points, workspace, stream);
    });
}

}  // namespace hepgen::bindings
