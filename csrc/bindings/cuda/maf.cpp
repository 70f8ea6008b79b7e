#include "hepgen/cuda/maf.hpp"

#include <vector>

#include "cuda_bindings.hpp"

namespace hepgen::bindings {
namespace {

using Strides = std::vector<std::int64_t>;

template <class T>
cuda::MafRows<T> rows(Address address, const Strides& strides) {
    return {at<const T>(address), strides[0], strides.size() > 1 ? strides[1] : 0};
}

// What all calls have in common, as a Python tuple's elements.
struct Flow {
    Address weights, orders, context;
    Strides context_strides;
    int features, columns_of_context, blocks;
    std::vector<int> hidden;
    int activation;
    double bound;
    std::int64_t n;
    bool inverse;

    cuda::MafShape shape() const {
        require(!hidden.empty() && hidden.size() <= cuda::kMafLayers,
                "a flow on a GPU needs one to eight hidden layers");
        return cuda::maf_shape(features, columns_of_context, blocks, hidden, activation, bound);
    }

    template <class T>
    cuda::MafFlow<T> flow() const {
        return {shape(), at<const T>(weights), at<const std::int64_t>(orders), rows<T>(context, context_strides), n,
                inverse};
    }
};

template <class T>
std::size_t workspace(const Flow& flow, bool backward, bool weights_wanted) {
    return cuda::maf_workspace(flow.flow<T>(), backward, weights_wanted);
}

template <class T>
void apply(const Flow& flow, Address in, const Strides& strides, Address out, Address log_det, Address record,
           Address log_prob, Address workspace, Address stream) {
    const cuda::MafApply<T> to{rows<T>(in, strides), at<T>(out), at<T>(log_det), at<T>(record), at<T>(log_prob)};
    cuda::maf_apply(flow.flow<T>(), to, at<T>(workspace), stream_at(stream));
}

template <class T>
void backward(const Flow& flow, Address record, Address out, const Strides& out_strides, Address log_det,
              const Strides& log_det_strides, Address events, Address context, Address weights, Address workspace,
              Address stream) {
    const cuda::MafGradient<T> to{at<const T>(record),
                                  rows<T>(out, out_strides),
                                  rows<T>(log_det, log_det_strides),
                                  {},
                                  at<T>(events),
                                  at<T>(context),
                                  at<T>(weights)};
    cuda::maf_backward(flow.flow<T>(), to, at<T>(workspace), stream_at(stream));
}

template <class T>
void likelihood(const Flow& flow, Address record, Address event_weights, const Strides& strides, Address events,
                Address context, Address weights, Address workspace, Address stream) {
    const cuda::MafGradient<T> to{
        at<const T>(record), {}, {}, rows<T>(event_weights, strides), at<T>(events), at<T>(context), at<T>(weights)};
    cuda::maf_backward(flow.flow<T>(), to, at<T>(workspace), stream_at(stream));
}

// function(double_precision, ...)
template <class... A>
auto of_precision(void (*single)(A...), void (*twice)(A...)) {
    return
        [single, twice](bool double_precision, A... arguments) { (double_precision ? twice : single)(arguments...); };
}

}  // namespace

void bind_cuda_maf(py::module_& m) {
    using namespace py::literals;
    py::class_<Flow>(m, "MafFlow")
        .def(py::init([](Address weights, Address orders, Address context, const Strides& strides, int features,
                         int columns_of_context, int blocks, const std::vector<int>& hidden, int activation,
                         double bound, std::int64_t n, bool inverse) {
                 return Flow{weights, orders, context,    strides, features, columns_of_context,
                             blocks,  hidden, activation, bound,   n,        inverse};
             }),
             "weights"_a, "orders"_a, "context"_a, "context_strides"_a, "features"_a, "columns_of_context"_a,
             "blocks"_a, "hidden"_a, "activation"_a, "bound"_a, "n"_a, "inverse"_a);
    m.def("maf_workspace", [](bool twice, const Flow& flow, bool backward, bool weights_wanted, Address) {
        return (twice ? workspace<double> : workspace<float>)(flow, backward, weights_wanted);
    });
    m.def("maf_apply", of_precision(&apply<float>, &apply<double>));
    m.def("maf_backward", of_precision(&backward<float>, &backward<double>));
    m.def("maf_likelihood", of_precision(&likelihood<float>, &likelihood<double>));
}

}  // namespace hepgen::bindings
