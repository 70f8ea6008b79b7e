#include "hepgen/mlp.hpp"

#include <vector>

#include "bindings.hpp"
#include "rows.hpp"

namespace hepgen::bindings {
namespace {

using Seeds = Array<std::int64_t>;

// Networks of one shape as they come from Python: parameters (members, P), layer after layer weight and bias.
template <class T>
struct Ensemble {
    MlpShape shape;
    std::size_t count;
    py::ssize_t n;
    std::vector<MlpMember<T>> members;

    Ensemble(const Strided<T>& in, const Array<T>& parameters, const Seeds& seeds, const std::vector<int>& widths,
             int activation, int output, bool shortcuts)
        : shape{widths, Activation(activation), MlpOutput(output), shortcuts},
          count(parameters.ndim() == 2 ? parameters.shape(0) : 0),
          n(in.ndim() == 3 ? in.shape(1) : 0) {
        require(widths.size() > 1, "a network needs a layer");
        for (int width : widths) require(width > 0, "a layer needs a unit");
        require(activation >= 0 && activation <= int(Activation::elu), "there is no such activation");
        require(output >= 0 && output <= int(MlpOutput::tanh), "there is no such output");
        for (std::size_t l = 3; shortcuts && l + 1 < widths.size(); l += 2) {
            require(widths[l] == widths[l - 2], "a shortcut joins layers of equal widths");
        }
        require(in.ndim() == 3 && parameters.ndim() == 2 && in.shape(0) == parameters.shape(0),
                "events (members, n, inputs) and weights (members, P) must be of as many members");
        require(in.shape(2) == widths.front(), "events must have as many columns as the network has inputs");
        require(seeds.ndim() == 1 && seeds.shape(0) == in.shape(0), "every member needs a seed");
        std::size_t size = 0;
        for (std::size_t l = 1; l < widths.size() && size <= std::size_t(parameters.shape(1)); ++l) {
            size += std::size_t(widths[l]) * (std::size_t(widths[l - 1]) + 1);
        }
        require(std::size_t(parameters.shape(1)) == size, "the weights do not have the network's shape");
        for (std::size_t e = 0; e < count; ++e) {
            members.push_back({split(parameters.data() + e * size), slice(in, e), std::uint64_t(seeds.data()[e])});
        }
    }

    // Weights and biases of one member, or their gradients.
    template <class U>
    MlpLayers<U> split(U* at) const {
        MlpLayers<U> out;
        for (int layer = 0; layer < shape.layers(); ++layer) {
            out.weights.push_back(at);
            at += std::ptrdiff_t(shape.widths[layer + 1]) * shape.widths[layer];
            out.biases.push_back(at);
            at += shape.widths[layer + 1];
        }
        return out;
    }

    static Rows<const T> slice(const Strided<T>& array, std::size_t member) {
        const auto step = [&](py::ssize_t axis) { return array.strides(axis) / py::ssize_t(sizeof(T)); };
        return {array.data() + std::ptrdiff_t(member) * step(0), step(1), step(2)};
    }
};

std::uint32_t dropped(double probability) {
    require(probability >= 0 && probability < 1 && mlp_dropout(probability) < mlp_dropout(1),
            "dropout must be a probability of at least 0 that does not round to 1 in units of 2^-16");
    return mlp_dropout(probability);
}

template <class T>
py::tuple apply(const Strided<T>& in, const Array<T>& parameters, const Seeds& seeds, const std::vector<int>& widths,
                int activation, int output, bool shortcuts, double dropout, bool record, int threads) {
    require(in.ndim() == 3, "events must be (members, n, inputs)");
    const std::uint32_t out_of_65536 = dropped(dropout);
    const Ensemble<T> networks(in, parameters, seeds, widths, activation, output, shortcuts);
    Array<T> out({py::ssize_t(networks.count), networks.n, py::ssize_t(widths.back())});
    Array<T> values(record ? py::ssize_t(mlp_record_size(networks.shape, networks.count, networks.n, sizeof(T))) : 0);
    T *to = out.mutable_data(), *to_values = values.size() ? values.mutable_data() : nullptr;
    {
        py::gil_scoped_release release;
        mlp_apply<T>(networks.shape, networks.members, out_of_65536, networks.n, threads, to, to_values);
    }
    return py::make_tuple(out, values);
}

// wanted: 1 gradient of the events, 2 of the weights
template <class T>
py::tuple backward(const Strided<T>& out_gradient, const Strided<T>& in, const Array<T>& record,
                   const Array<T>& parameters, const Seeds& seeds, const std::vector<int>& widths, int activation,
                   int output, bool shortcuts, double dropout, int wanted, int threads) {
    require(in.ndim() == 3, "events must be (members, n, inputs)");
    const std::uint32_t out_of_65536 = dropped(dropout);
    const Ensemble<T> networks(in, parameters, seeds, widths, activation, output, shortcuts);
    const std::size_t count = networks.count, n = networks.n;
    require(out_gradient.ndim() == 3 && out_gradient.shape(0) == in.shape(0) && out_gradient.shape(1) == in.shape(1) &&
                out_gradient.shape(2) == widths.back(),
            "the gradient must be (members, n, outputs)");
    require(record.size() == py::ssize_t(mlp_record_size(networks.shape, count, n, sizeof(T))),
            "the record belongs to another call");
    const bool wants_events = wanted & 1, wants_weights = wanted & 2;
    Array<T> in_gradient({wants_events ? in.shape(0) : 0, in.shape(1), in.shape(2)});
    Array<T> flat({wants_weights ? parameters.shape(0) : 0, parameters.shape(1)});
    T* to_in = wants_events ? in_gradient.mutable_data() : nullptr;
    std::vector<MlpLayers<T>> gradients;
    std::vector<Rows<const T>> out_gradients;
    for (std::size_t e = 0; e < count; ++e) {
        out_gradients.push_back(networks.slice(out_gradient, e));
        if (wants_weights) gradients.push_back(networks.split(flat.mutable_data() + e * parameters.shape(1)));
    }
    {
        py::gil_scoped_release release;
        mlp_backward<T>(networks.shape, networks.members, out_of_65536, n, record.size() ? record.data() : nullptr,
                        out_gradients, threads, to_in, gradients);
    }
    return py::make_tuple(in_gradient, flat);
}

template <class T>
void bind_type(py::module_& m) {
    using namespace py::literals;
    m.def("mlp_apply", &apply<T>, py::arg("events").noconvert(), py::arg("weights").noconvert(),
          py::arg("seeds").noconvert(), "widths"_a, "activation"_a, "output"_a, "shortcuts"_a, "dropout"_a, "record"_a,
          "threads"_a);
    m.def("mlp_backward", &backward<T>, py::arg("out_gradient").noconvert(), py::arg("events").noconvert(),
          py::arg("record").noconvert(), py::arg("weights").noconvert(), py::arg("seeds").noconvert(), "widths"_a,
          "activation"_a, "output"_a, "shortcuts"_a, "dropout"_a, "wanted"_a, "threads"_a);
}

}  // namespace

void bind_mlp(py::module_& m) {
    bind_type<float>(m);
    bind_type<double>(m);
}

}  // namespace hepgen::bindings
