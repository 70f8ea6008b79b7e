#include "hepgen/maf.hpp"

#include <optional>
#include <vector>

#include "bindings.hpp"

namespace hepgen::bindings {
namespace {

template <class T>
using Strided = py::array_t<T, 0>;

template <class T>
Rows<const T> rows(const Strided<T>& array) {
    const auto step = [&](py::ssize_t axis) { return array.strides(axis) / py::ssize_t(sizeof(T)); };
    return {array.data(), step(0), array.ndim() == 2 ? step(1) : 0};
}

// A flow as it comes from Python: `weights` holds, block after block, first weight, bias, context weight where there is
// a context, then weight and bias of each further layer.
template <class T>
struct Flow {
    std::vector<Array<T>> arrays;
    Array<std::int64_t> orders;
    MafShape shape{};
    std::vector<MafBlock<const T>> blocks;

    Flow(const py::list& weights, const Array<std::int64_t>& orders_, int context, int activation, double bound)
        : orders(orders_) {
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
        for (py::handle weight : weights) {
            require(py::isinstance<Array<T>>(weight), "weights must be contiguous and of the type of the events");
            arrays.push_back(py::reinterpret_borrow<Array<T>>(weight));
        }
        shape.blocks = int(orders.shape(0));
        shape.features = int(orders.shape(1));
        shape.context = context;
        shape.activation = Activation(activation);
        shape.bound = bound;
        shape.orders = orders.data();
        const std::size_t per_block = arrays.size() / shape.blocks;
        require(per_block * shape.blocks == arrays.size() && per_block >= std::size_t(context ? 5 : 4),
                "every block needs the same number of weights");
        for (int block = 0; block < shape.blocks; ++block) {
            std::size_t next = block * per_block;
            blocks.push_back(take_block(next, block == 0));
            require(next == (block + 1) * per_block, "every block needs the same number of weights");
        }
    }

    MafBlock<const T> take_block(std::size_t& next, bool first) {
        MafBlock<const T> taken{};
        const std::size_t end = next + arrays.size() / shape.blocks;
        int seen = shape.features;
        for (std::size_t layer = 0; next + 1 < end; ++layer) {
            const bool last = next + 2 == end;
            const Array<T>& weight = arrays[next++];
            require(weight.ndim() == 2 && weight.shape(0) > 0 && weight.shape(1) == seen,
                    "a weight does not fit the layer before it");
            const int units = int(weight.shape(0));
            if (first && !last) shape.hidden.push_back(units);
            require(units == (last ? kMapOutputs * shape.features : shape.hidden.at(layer)),
                    "blocks must have equal widths");
            taken.weights.push_back(weight.data());
            taken.biases.push_back(vector_of(next, units));
            if (layer == 0 && shape.context) {
                const Array<T>& from_context = arrays[next++];
                require(from_context.ndim() == 2 && from_context.shape(0) == units &&
                            from_context.shape(1) == shape.context,
                        "the context weight must have shape (units, context)");
                taken.context_weight = from_context.data();
            }
            seen = units;
        }
        return taken;
    }

    const T* vector_of(std::size_t& next, int units) {
        const Array<T>& bias = arrays.at(next++);
        require(bias.ndim() == 1 && bias.shape(0) == units, "a bias must hold one value per unit");
        return bias.data();
    }

    // The same structure over one array that holds all of it, in the order of `weights`.
    std::vector<MafBlock<T>> gradients(T* flat) const {
        std::vector<MafBlock<T>> out(blocks.size());
        const std::size_t per_block = arrays.size() / shape.blocks;
        for (std::size_t i = 0; i < arrays.size(); ++i) {
            MafBlock<T>& block = out[i / per_block];
            const std::size_t place = i % per_block;
            if (shape.context && place == 2) {
                block.context_weight = flat;
            } else {
                (arrays[i].ndim() == 2 ? block.weights : block.biases).push_back(flat);
            }
            flat += arrays[i].size();
        }
        return out;
    }

    py::ssize_t size() const {
        py::ssize_t total = 0;
        for (const Array<T>& array : arrays) total += array.size();
        return total;
    }
};

template <class T>
void check_rows(const Strided<T>& array, py::ssize_t n, int columns, const char* what) {
    require(array.ndim() == 2 && array.shape(0) == n && array.shape(1) == columns,
            std::string(what) + " must have shape (rows, " + std::to_string(columns) + ")");
}

template <class T>
py::tuple apply(bool inverse, const Strided<T>& in, const Strided<T>& context, const py::list& weights,
                const Array<std::int64_t>& orders, int activation, double bound, bool record, int threads) {
    require(in.ndim() == 2 && context.ndim() == 2, "events and context must be matrices");
    const Flow<T> flow(weights, orders, int(context.shape(1)), activation, bound);
    const py::ssize_t n = in.shape(0);
    check_rows(in, n, flow.shape.features, "events");
    check_rows(context, n, flow.shape.context, "context");
    Array<T> out({n, py::ssize_t(flow.shape.features)}), log_det(n);
    Array<T> states(record ? py::ssize_t(maf_record_size(flow.shape, n, sizeof(T))) : 0);
    T *to = out.mutable_data(), *to_log_det = log_det.mutable_data(),
      *to_states = record ? states.mutable_data() : nullptr;
    {
        py::gil_scoped_release release;
        maf_apply<T>(inverse ? Direction::inverse : Direction::forward, flow.shape, flow.blocks, n, rows(in),
                     rows(context), threads, to, to_log_det, to_states);
    }
    return py::make_tuple(out, log_det, states);
}

// wanted: 1 gradient of the events, 2 of the context, 4 of the weights (flat, in their order)
template <class T>
py::tuple backward(bool inverse, const Strided<T>& out_gradient, const Strided<T>& log_det_gradient,
                   const Array<T>& record, const Strided<T>& context, const py::list& weights,
                   const Array<std::int64_t>& orders, int activation, double bound, int wanted, int threads) {
    require(context.ndim() == 2, "context must be a matrix");
    const Flow<T> flow(weights, orders, int(context.shape(1)), activation, bound);
    const py::ssize_t n = context.shape(0);
    check_rows(out_gradient, n, flow.shape.features, "the gradient");
    require(log_det_gradient.ndim() == 1 && log_det_gradient.shape(0) == n,
            "the gradient of log_det must hold one value per row");
    require(record.size() == py::ssize_t(maf_record_size(flow.shape, n, sizeof(T))),
            "the record belongs to another call");
    Array<T> in_gradient({wanted & 1 ? n : 0, py::ssize_t(flow.shape.features)});
    Array<T> context_gradient({wanted & 2 ? n : 0, py::ssize_t(flow.shape.context)});
    Array<T> flat(wanted & 4 ? flow.size() : 0);
    T* to_in = wanted & 1 ? in_gradient.mutable_data() : nullptr;
    T* to_context = wanted & 2 && flow.shape.context ? context_gradient.mutable_data() : nullptr;
    const auto gradients = wanted & 4 ? flow.gradients(flat.mutable_data()) : std::vector<MafBlock<T>>{};
    {
        py::gil_scoped_release release;
        maf_backward<T>(inverse ? Direction::inverse : Direction::forward, flow.shape, flow.blocks, n, record.data(),
                        rows(context), rows(out_gradient), rows(log_det_gradient), threads, to_in, to_context,
                        gradients);
    }
    return py::make_tuple(in_gradient, context_gradient, flat);
}

template <class T>
void bind_type(py::module_& m) {
    using namespace py::literals;
    m.def("maf_apply", &apply<T>, "inverse"_a, py::arg("events").noconvert(), py::arg("context").noconvert(),
          "weights"_a, "orders"_a, "activation"_a, "bound"_a, "record"_a, "threads"_a);
    m.def("maf_backward", &backward<T>, "inverse"_a, py::arg("out_gradient").noconvert(),
          py::arg("log_det_gradient").noconvert(), py::arg("record").noconvert(), py::arg("context").noconvert(),
          "weights"_a, "orders"_a, "activation"_a, "bound"_a, "wanted"_a, "threads"_a);
}

}  // namespace

void bind_maf(py::module_& m) {
    bind_type<float>(m);
    bind_type<double>(m);
}

}  // namespace hepgen::bindings
