#include "hepgen/ecd.hpp"

#include <pybind11/stl.h>

#include <vector>

#include "bindings.hpp"

namespace hepgen::bindings {
namespace {

using Addresses = std::vector<std::uintptr_t>;  // torch's data_ptr: at this size even numpy views would cost too much

template <class T>
int step(const Addresses& parameters, const Addresses& velocities, const Addresses& gradients,
         const std::vector<std::size_t>& sizes, const std::vector<double>& scales,
         const std::vector<double>& weight_decays, double loss, const EcdRule& rule, int threads, double* full_loss) {
    std::vector<EcdTensor<T>> tensors;
    tensors.reserve(sizes.size());
    for (std::size_t k = 0; k < sizes.size(); ++k) {
        tensors.push_back({reinterpret_cast<T*>(parameters[k]), reinterpret_cast<T*>(velocities[k]),
                           reinterpret_cast<const T*>(gradients[k]), sizes[k], scales[k], weight_decays[k]});
    }
    py::gil_scoped_release release;
    return int(ecd_step<T>(tensors, loss, rule, threads, full_loss));
}

py::tuple any_step(bool is_double, const Addresses& parameters, const Addresses& velocities, const Addresses& gradients,
                   const std::vector<std::size_t>& sizes, const std::vector<double>& scales,
                   const std::vector<double>& weight_decays, double loss, double time_step, double eta, double f0,
                   double nu, double q, bool per_tensor, std::uint64_t seed, std::uint32_t step_number, int threads) {
    const std::size_t n = sizes.size();
    require(parameters.size() == n && velocities.size() == n && gradients.size() == n && scales.size() == n &&
                weight_decays.size() == n,
            "every tensor needs its address, velocity, gradient, size, scale and weight decay");
    for (const Addresses* addresses : {&parameters, &velocities, &gradients}) {
        for (std::uintptr_t at : *addresses) {
            require(at % (is_double ? alignof(double) : alignof(float)) == 0, "a tensor is not aligned to its numbers");
        }
    }
    const EcdRule rule{time_step, eta, f0, nu, q, per_tensor, seed, step_number};
    double full_loss = loss;
    const int outcome = (is_double ? step<double> : step<float>)(parameters, velocities, gradients, sizes, scales,
                                                                 weight_decays, loss, rule, threads, &full_loss);
    return py::make_tuple(outcome, full_loss);
}

template <class T>
py::array noise(std::uint64_t seed, std::uint32_t step_number, std::uint64_t tensor, std::size_t count) {
    Array<T> out{py::ssize_t(count)};
    ecd_noise<T>(seed, step_number, tensor, count, out.mutable_data());
    return out;
}

}  // namespace

void bind_ecd(py::module_& m) {
    using namespace py::literals;
    m.def("ecd_step", &any_step);
    m.def(
        "ecd_noise",
        [](bool is_double, std::uint64_t seed, std::uint32_t step_number, std::uint64_t tensor, std::size_t count) {
            return (is_double ? noise<double> : noise<float>)(seed, step_number, tensor, count);
        },
        "is_double"_a, "seed"_a, "step"_a, "tensor"_a, "count"_a);
}

}  // namespace hepgen::bindings
