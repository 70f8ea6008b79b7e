#include "hepgen/cuda/ecd.hpp"

#include <tuple>
#include <vector>

#include "cuda_bindings.hpp"

namespace hepgen::bindings {
namespace {

// table, owner, state, workspace; tensors, pieces, elements of a piece, parameters; ranks from which there are more
// pieces
using Plan = std::tuple<Address, Address, Address, Address, std::int64_t, std::int64_t, std::int64_t, std::int64_t,
                        std::int64_t, std::int64_t>;
using Number = std::tuple<double, Address, bool>;  // factor, address of the other factor or 0, whether that is a double

cuda::EcdPlan plan(const Plan& p) {
    const auto& [table, owner, state, workspace, tensors, pieces, piece, parameters, few, some] = p;
    require(tensors > 0 && pieces > 0 && piece > 0, "ecd_step: there must be tensors with elements");
    require(pieces < (std::int64_t(1) << 31), "ecd_step: too many parameters for one launch");
    return {at<std::uint64_t>(table),
            at<std::int32_t>(owner),
            at<std::uint64_t>(state),
            at<std::byte>(workspace),
            tensors,
            pieces,
            piece,
            parameters,
            few,
            some};
}

cuda::EcdNumber number(const Number& n) {
    return {std::get<0>(n), at<const void>(std::get<1>(n)), std::get<2>(n)};
}

void step(bool wide, const Plan& p, const Number& loss, const Number& time_step, double eta, double f0, double nu,
          double q, bool per_tensor, std::uint64_t seed, std::uint32_t step_number, Address steps, Address stream) {
    const cuda::EcdRule rule{
        number(loss), number(time_step), eta, f0, nu, q, per_tensor, seed, step_number, at<const std::int64_t>(steps)};
    (wide ? cuda::ecd_step<double> : cuda::ecd_step<float>)(plan(p), rule, stream_at(stream));
}

}  // namespace

void bind_cuda_ecd(py::module_& m) {
    m.def("ecd_workspace", &cuda::ecd_workspace);
    m.def("ecd_tile", &cuda::ecd_tile);
    m.def("ecd_write", [](const Plan& p, std::int64_t first, const std::vector<std::uint64_t>& words, Address stream) {
        const std::int64_t count = std::int64_t(words.size());
        require(first >= 0 && first + count <= std::int64_t(cuda::EcdField::count) * std::get<4>(p),
                "ecd_write: beyond the table");
        cuda::ecd_write(plan(p), first, words.data(), count, stream_at(stream));
    });
    m.def("ecd_share", [](const Plan& p, Address stream) { cuda::ecd_share(plan(p), stream_at(stream)); });
    m.def("ecd_step", &step);
}

}  // namespace hepgen::bindings
