#include "hepgen/mlp.hpp"

#include <vector>

#include "bindings.hpp"
#include "rows.hpp"

namespace hepgen::bindings {
namespace {

// A network as it comes from Python: all parameters in one array, layer after layer weight and bias.
template <class T>
struct Network {
    Array<T> parameters;
    MlpShape shape;
    MlpLayers<const T> layers;

    Network(const Array<T>& parameters_, const std::vector<int>& widths, int activation, int output)
        : parameters(parameters_), shape{widths, Activation(activation), MlpOutput(output)} {
        require(widths.size() > 1, "a network needs a layer");
        for (int width : widths) require(width > 0, "a layer needs a unit");
        require(activation >= 0 && activation <= int(Activation::elu), "there is no such activation");
        require(output >= 0 && output <= int(MlpOutput::sigmoid), "there is no such output");
        const T* end = parameters.data();
        layers = split<const T>(end);
        require(end - parameters.data() == parameters.size(), "the weights do not have the network's shape");
    }

    // Weights and biases, or their gradients, from `at` on, which is left at their end.
    template <class U>
    MlpLayers<U> split(U*& at) const {
        MlpLayers<U> out;
        for (int layer = 0; layer < shape.layers(); ++layer) {
            out.weights.push_back(at);
            at += std::ptrdiff_t(shape.widths[layer + 1]) * shape.widths[layer];
            out.biases.push_back(at);
            at += shape.widths[layer + 1];
        }
        return out;
    }
};

template <class T>
py::tuple apply(const Strided<T>& in, const Array<T>& parameters, const std::vector<int>& widths, int activation,
                int output, bool record, int threads) {
    const Network<T> network(parameters, widths, activation, output);
    require(in.ndim() == 2, "events must be a matrix");
    const py::ssize_t n = in.shape(0);
    check_rows(in, n, widths.front(), "events");
    Array<T> out({n, py::ssize_t(widths.back())});
    Array<T> values(record ? py::ssize_t(mlp_record_size(network.shape, n, sizeof(T))) : 0);
    T *to = out.mutable_data(), *to_values = record ? values.mutable_data() : nullptr;
    {
        py::gil_scoped_release release;
        mlp_apply<T>(network.shape, network.layers, n, rows(in), threads, to, to_values);
    }
    return py::make_tuple(out, values);
}

// wanted: 1 gradient of the events, 2 of the weights (flat, in their order)
template <class T>
py::tuple backward(const Strided<T>& out_gradient, const Strided<T>& in, const Array<T>& record,
                   const Array<T>& parameters, const std::vector<int>& widths, int activation, int output, int wanted,
                   int threads) {
    const Network<T> network(parameters, widths, activation, output);
    require(in.ndim() == 2, "events must be a matrix");
    const py::ssize_t n = in.shape(0);
    check_rows(in, n, widths.front(), "events");
    check_rows(out_gradient, n, widths.back(), "the gradient");
    require(record.size() == py::ssize_t(mlp_record_size(network.shape, n, sizeof(T))),
            "the record belongs to another call");
    Array<T> in_gradient({wanted & 1 ? n : 0, py::ssize_t(widths.front())}), flat(wanted & 2 ? parameters.size() : 0);
    T *to_in = wanted & 1 ? in_gradient.mutable_data() : nullptr, *at = flat.mutable_data();
    const MlpLayers<T> gradients = wanted & 2 ? network.split(at) : MlpLayers<T>{};
    {
        py::gil_scoped_release release;
        mlp_backward<T>(network.shape, network.layers, n, rows(in), record.data(), rows(out_gradient), threads, to_in,
                        gradients);
    }
    return py::make_tuple(in_gradient, flat);
}

template <class T>
void bind_type(py::module_& m) {
    using namespace py::literals;
    m.def("mlp_apply", &apply<T>, py::arg("events").noconvert(), py::arg("weights").noconvert(), "widths"_a,
          "activation"_a, "output"_a, "record"_a, "threads"_a);
    m.def("mlp_backward", &backward<T>, py::arg("out_gradient").noconvert(), py::arg("events").noconvert(),
          py::arg("record").noconvert(), py::arg("weights").noconvert(), "widths"_a, "activation"_a, "output"_a,
          "wanted"_a, "threads"_a);
}

}  // namespace

void bind_mlp(py::module_& m) {
    bind_type<float>(m);
    bind_type<double>(m);
}

}  // namespace hepgen::bindings
