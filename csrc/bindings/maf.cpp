#include "hepgen/maf.hpp"

#include <vector>

#include "bindings.hpp"
#include "rows.hpp"

namespace hepgen::bindings {
namespace {

// A flow as it comes from Python: all parameters in one array, block after block, of each first weight, bias, context
// weight where there is a context, then weight and bias of each further layer.
template <class T>
struct Flow {
    Array<T> parameters;
    Array<std::int64_t> orders;
    MafShape shape{};
    std::vector<MafBlock<const T>> blocks;

    Flow(const Array<T>& parameters_, const std::vector<int>& hidden, const Array<std::int64_t>& orders_, int context,
         int activation, double bound)
        : parameters(parameters_), orders(orders_) {
        require(orders.ndim() == 2 && orders.shape(0) > 0 && orders.shape(1) > 0,
                "orders must have shape (blocks, features)");
        for (py::ssize_t block = 0; block < orders.shape(0); ++block) {
            std::vector<bool> seen(orders.shape(1), false);
            for (py::ssize_t j = 0; j < orders.shape(1); ++j) {
                const std::int64_t column = orders.at(block, j);
                require(column >= 0 && column < orders.shape(1) && !seen[column],
                        "orders must hold permutations of the columns");
                seen[column] = true;
            }
        }
        require(!hidden.empty(), "a flow needs a hidden layer");
        for (int width : hidden) require(width > 0, "a hidden layer needs a unit");
        require(activation >= 0 && activation <= int(Activation::elu), "there is no such activation");
        shape = {int(orders.shape(1)),   context, int(orders.shape(0)), hidden,
                 Activation(activation), bound,   orders.data()};
        require(std::size_t(parameters.size()) == size(std::size_t(parameters.size())),
                "the weights do not have the flow's shape");
        const T* at = parameters.data();
        blocks = split<const T>(at);
    }

    // Number of all parameters; beyond `most` no more than that is known.
    std::size_t size(std::size_t most) const {
        std::size_t total = 0, seen = std::size_t(shape.features) + std::size_t(shape.context);
        const auto add = [&](std::size_t units) {
            if (total <= most) total += units * (seen + 1);
            seen = units;
        };
        for (int units : shape.hidden) add(std::size_t(units));
        add(std::size_t(kMapOutputs) * std::size_t(shape.features));
        return total > most || total > most / std::size_t(shape.blocks) ? most + 1 : total * std::size_t(shape.blocks);
    }

    // The blocks' parameters, or gradients, from `at` on, which is left at their end.
    template <class U>
    std::vector<MafBlock<U>> split(U*& at) const {
        std::vector<int> widths{shape.features};
        widths.insert(widths.end(), shape.hidden.begin(), shape.hidden.end());
        widths.push_back(kMapOutputs * shape.features);
        std::vector<MafBlock<U>> out(shape.blocks);
        for (MafBlock<U>& block : out) {
            const auto take = [&at](std::ptrdiff_t size) { return (at += size) - size; };
            for (std::size_t layer = 0; layer + 1 < widths.size(); ++layer) {
                block.weights.push_back(take(std::ptrdiff_t(widths[layer + 1]) * widths[layer]));
                block.biases.push_back(take(widths[layer + 1]));
                if (layer == 0) block.context_weight = take(std::ptrdiff_t(widths[1]) * shape.context);
            }
        }
        return out;
    }
};

// The gradients that a call is asked for. wanted: 1 of the events, 2 of the context, 4 of the weights
template <class T>
struct Gradients {
    Array<T> events, context, flat;
    T *to_events, *to_context;
    std::vector<MafBlock<T>> blocks;

    Gradients(const Flow<T>& flow, py::ssize_t n, int wanted)
        : events({wanted & 1 ? n : 0, py::ssize_t(flow.shape.features)}),
          context({wanted & 2 ? n : 0, py::ssize_t(flow.shape.context)}),
          flat(wanted & 4 ? flow.parameters.size() : 0),
          to_events(wanted & 1 ? events.mutable_data() : nullptr),
          to_context(wanted & 2 && flow.shape.context ? context.mutable_data() : nullptr) {
        T* at = flat.mutable_data();
        if (wanted & 4) blocks = flow.split(at);
    }
};

Direction direction(bool inverse) {
    return inverse ? Direction::inverse : Direction::forward;
}

template <class T>
py::tuple apply(bool inverse, const Strided<T>& in, const Strided<T>& context, const Array<T>& parameters,
                const std::vector<int>& hidden, const Array<std::int64_t>& orders, int activation, double bound,
                bool record, int threads) {
    require(in.ndim() == 2 && context.ndim() == 2, "events and context must be matrices");
    const Flow<T> flow(parameters, hidden, orders, int(context.shape(1)), activation, bound);
    const py::ssize_t n = in.shape(0);
    check_rows(in, n, flow.shape.features, "events");
    check_rows(context, n, flow.shape.context, "context");
    Array<T> out({n, py::ssize_t(flow.shape.features)}), log_det(n);
    Array<T> states(record ? py::ssize_t(maf_record_size(flow.shape, n, sizeof(T))) : 0);
    T *to = out.mutable_data(), *to_log_det = log_det.mutable_data(),
      *to_states = record ? states.mutable_data() : nullptr;
    {
        py::gil_scoped_release release;
        maf_apply<T>(direction(inverse), flow.shape, flow.blocks, n, rows(in), rows(context), threads, to, to_log_det,
                     to_states);
    }
    return py::make_tuple(out, log_det, states);
}

template <class T>
py::tuple backward(bool inverse, const Strided<T>& out_gradient, const Strided<T>& log_det_gradient,
                   const Array<T>& record, const Strided<T>& context, const Array<T>& parameters,
                   const std::vector<int>& hidden, const Array<std::int64_t>& orders, int activation, double bound,
                   int wanted, int threads) {
    require(context.ndim() == 2, "context must be a matrix");
    const Flow<T> flow(parameters, hidden, orders, int(context.shape(1)), activation, bound);
    const py::ssize_t n = context.shape(0);
    check_rows(out_gradient, n, flow.shape.features, "the gradient");
    check_column(log_det_gradient, n, "the gradient of log_det");
    require(record.size() == py::ssize_t(maf_record_size(flow.shape, n, sizeof(T))),
            "the record belongs to another call");
    Gradients<T> to(flow, n, wanted);
    {
        py::gil_scoped_release release;
        maf_backward<T>(direction(inverse), flow.shape, flow.blocks, n, record.data(), rows(context),
                        rows(out_gradient), rows(log_det_gradient), threads, to.to_events, to.to_context, to.blocks);
    }
    return py::make_tuple(to.events, to.context, to.flat);
}

template <class T>
py::tuple likelihood(const Strided<T>& in, const Strided<T>& context, const Strided<T>& event_weights,
                     const Array<T>& parameters, const std::vector<int>& hidden, const Array<std::int64_t>& orders,
                     int activation, double bound, int wanted, int threads) {
    require(in.ndim() == 2 && context.ndim() == 2, "events and context must be matrices");
    const Flow<T> flow(parameters, hidden, orders, int(context.shape(1)), activation, bound);
    const py::ssize_t n = in.shape(0);
    check_rows(in, n, flow.shape.features, "events");
    check_rows(context, n, flow.shape.context, "context");
    check_column(event_weights, n, "the events' weights");
    Array<T> sum(1), log_prob(n);
    T *to_sum = sum.mutable_data(), *to_log_prob = log_prob.mutable_data();
    Gradients<T> to(flow, n, wanted);
    {
        py::gil_scoped_release release;
        maf_likelihood<T>(flow.shape, flow.blocks, n, rows(in), rows(context), rows(event_weights), threads,
                          to_log_prob, to_sum, to.to_events, to.to_context, to.blocks);
    }
    return py::make_tuple(sum, log_prob, to.events, to.context, to.flat);
}

template <class T>
void bind_type(py::module_& m) {
    using namespace py::literals;
    m.def("maf_apply", &apply<T>, "inverse"_a, py::arg("events").noconvert(), py::arg("context").noconvert(),
          py::arg("weights").noconvert(), "hidden"_a, "orders"_a, "activation"_a, "bound"_a, "record"_a, "threads"_a);
    m.def("maf_backward", &backward<T>, "inverse"_a, py::arg("out_gradient").noconvert(),
          py::arg("log_det_gradient").noconvert(), py::arg("record").noconvert(), py::arg("context").noconvert(),
          py::arg("weights").noconvert(), "hidden"_a, "orders"_a, "activation"_a, "bound"_a, "wanted"_a, "threads"_a);
    m.def("maf_likelihood", &likelihood<T>, py::arg("events").noconvert(), py::arg("context").noconvert(),
          py::arg("event_weights").noconvert(), py::arg("weights").noconvert(), "hidden"_a, "orders"_a, "activation"_a,
          "bound"_a, "wanted"_a, "threads"_a);
}

}  // namespace

void bind_maf(py::module_& m) {
    bind_type<float>(m);
    bind_type<double>(m);
}

}  // namespace hepgen::bindings
