#include "hepgen/maf_plan.hpp"

#include <algorithm>

namespace hepgen {

std::vector<int> unit_stops(int width, int features, int context) {
    const long lowest = context > 0 || features == 1 ? 0 : 1;
    std::vector<int> stops(features, 0);
    for (long unit = 0; unit < width; ++unit) ++stops[lowest + unit * (features - lowest) / width];
    for (int g = 1; g < features; ++g) stops[g] += stops[g - 1];
    return stops;
}

PlanMaker::PlanMaker(const MafShape& shape, PlanKind kind, int lanes, int most_rows)
    : plan{}, shape_(shape), panels_(lanes, most_rows) {
    plan.features = shape.features;
    plan.context = shape.context;
    plan.hidden_layers = int(shape.hidden.size());
    plan.activation = shape.activation;
    plan.bound = shape.bound;
    widths_.push_back(shape.context + shape.features);
    for (int width : shape.hidden) {
        widths_.push_back(width);
        stops_.push_back(unit_stops(width, shape.features, shape.context));
    }
    widths_.push_back(kMapOutputs * shape.features);
    plan.widths = widths_.data();
    for (int layer = 1; layer <= plan.hidden_layers + 1; ++layer) {
        std::vector<int> seen(widths_[layer]);
        for (int unit = 0, degree = 0; unit < widths_[layer]; ++unit) {
            while (unit >= stop(layer, degree)) ++degree;
            seen[unit] = layer == 1 ? shape.context + degree : stop(layer - 1, degree);
        }
        prefix.push_back(seen);
    }
    make_steps(kind.values_by_column);
    if (kind.backward) make_adjoint(kind.adjoint_by_column);
    lay_out_scratch(kind.backward);
    plan.packed_size = panels_.packed_size;
    plan.sums_size = panels_.sums_size;
}

// Units of `layer` (1 ... hidden, then the parameters) that are done once the columns up to `column` are.
int PlanMaker::stop(int layer, int column) const {
    if (column < 0) return 0;
    return layer <= plan.hidden_layers ? stops_[layer - 1][column] : kMapOutputs * (column + 1);
}

// Ends of the groups of columns that go together.
std::vector<int> PlanMaker::boundaries(bool by_column) const {
    std::vector<int> ends;
    int begin = 0;
    for (int column = 0; column < plan.features; ++column) {
        const int units = stop(plan.hidden_layers, column) - stop(plan.hidden_layers, begin - 1);
        if (by_column || units >= panels_.most_rows || column + 1 == plan.features) {
            ends.push_back(column + 1);
            begin = column + 1;
        }
    }
    return ends;
}

void PlanMaker::make_steps(bool by_column) {
    int begin = 0;
    for (int end : boundaries(by_column)) {
        std::vector<Part>& parts = parts_.emplace_back();
        for (int layer = 1; layer <= plan.hidden_layers + 1; ++layer) {
            const int first = stop(layer, begin - 1), last = stop(layer, end - 1);
            const int seen = layer == 1 ? plan.context + end - 1 : stop(layer - 1, end - 1);
            parts.push_back({first, last, panels_.make(first, last, 0, seen, true)});
        }
        steps_.push_back({begin, end, parts.data()});
        begin = end;
    }
    for (int width : widths_) bias_sums_.push_back(panels_.make_bias_sums(width));
    plan.steps = steps_.data();
    plan.step_count = int(steps_.size());
    plan.bias_sums = bias_sums_.data();
}

void PlanMaker::make_adjoint(bool by_column) {
    int begin = 0;
    for (int end : boundaries(by_column)) {
        std::vector<Part>& parts = parts_.emplace_back();
        for (int layer = 1; layer <= plan.hidden_layers; ++layer) {
            const int first = stop(layer, begin - 1), last = stop(layer, end - 1);
            parts.push_back(
                {first, last, panels_.make(first, last, stop(layer + 1, begin - 1), widths_[layer + 1], false)});
        }
        adjoint_.push_back({begin, end, parts.data()});
        begin = end;
    }
    const int together = by_column ? 1 : panels_.most_rows;
    for (begin = 0; begin < plan.features; begin += together) {
        const int end = std::min(begin + together, plan.features);
        adjoint_inputs_.push_back(
            panels_.make(plan.context + begin, plan.context + end, stop(1, begin), widths_[1], false));
    }
    plan.adjoint = adjoint_.data();
    plan.adjoint_count = int(adjoint_.size());
    plan.adjoint_inputs = adjoint_inputs_.data();
    plan.adjoint_input_count = int(adjoint_inputs_.size());
    plan.adjoint_context = panels_.make(0, plan.context, 0, widths_[1], false);
}

void PlanMaker::lay_out_scratch(bool backward) {
    auto take = [this](std::vector<std::size_t>& offsets, std::size_t rows) {
        offsets.push_back(plan.scratch_size);
        plan.scratch_size += rows * kTileEvents;
    };
    for (int width : widths_) take(values_, width);
    plan.values_size = plan.scratch_size;
    for (int width : widths_) {
        if (backward) take(adjoints_, width);
    }
    for (int width : widths_) {
        if (backward) take(transposed_, (width + kMostLanes - 1) / kMostLanes * kMostLanes);
    }
    plan.values = values_.data();
    plan.adjoints = adjoints_.data();
    plan.transposed = transposed_.data();
}

// body(panel, layer) for the values' panels.
template <class Body>
void PlanMaker::for_each_panel(const Body& body) const {
    for (const Step& step : steps_) {
        for (int layer = 1; layer <= plan.hidden_layers + 1; ++layer) {
            const Panels& panels = step.layers[layer - 1].panels;
            for (const Panel& p : panels) body(p, layer);
        }
    }
}

namespace {

// The first layer as the plan sees it: (hidden, context + features), the context's weights in front.
template <class T>
std::vector<T> joined_first_layer(const MafPlan& plan, const MafBlock<const T>& block) {
    const int context = plan.context, features = plan.features;
    std::vector<T> joined(std::size_t(plan.widths[1]) * plan.widths[0]);
    T* to = joined.data();
    for (int unit = 0; unit < plan.widths[1]; ++unit) {
        for (int k = 0; k < context; ++k) *to++ = block.context_weight[unit * context + k];
        for (int k = 0; k < features; ++k) *to++ = block.weights[0][unit * features + k];
    }
    return joined;
}

}  // namespace

template <class T>
LayerWeights<T> PlanMaker::layer(const MafBlock<const T>& block, const T* first, int layer) const {
    return {layer == 1 ? first : block.weights[layer - 1], block.biases[layer - 1], widths_[layer - 1],
            prefix[layer - 1].data()};
}

template <class T>
void PlanMaker::pack(const MafBlock<const T>& block, T* packed) const {
    const std::vector<T> first = joined_first_layer(plan, block);
    for_each_panel([&](const Panel& p, int of) { pack_panel(p, layer(block, first.data(), of), packed); });
    auto pack_all = [&](const Panels& panels, int of) {
        for (const Panel& p : panels) pack_transposed(p, layer(block, first.data(), of), packed);
    };
    for (const Step& step : adjoint_) {
        for (int of = 1; of <= plan.hidden_layers; ++of) pack_all(step.layers[of - 1].panels, of + 1);
    }
    for (const Panels& panels : adjoint_inputs_) pack_all(panels, 1);
    pack_all(plan.adjoint_context, 1);
}

template <class T>
void PlanMaker::unpack_sums(T* sums, std::size_t groups, std::size_t stride, const MafBlock<T>& gradients) const {
    const int lanes = panels_.lanes;
    add_groups(sums, plan.sums_size, groups, stride);
    std::vector<T> row(*std::max_element(widths_.begin(), widths_.end()) + std::size_t(lanes));
    for_each_panel([&](const Panel& p, int layer) {
        const std::size_t width = widths_[layer - 1];
        const std::size_t context = layer == 1 ? plan.context : 0;  // inputs of the first layer begin with it
        for (int r = 0; r < p.count; ++r) {
            const std::size_t unit = p.first + r, seen = prefix[layer - 1][unit];
            unpack_row(p, r, seen, lanes, sums, row.data());
            std::fill(row.begin() + seen, row.end(), T(0));
            if (context) std::copy_n(row.data(), context, gradients.context_weight + unit * context);
            std::copy_n(row.data() + context, width - context, gradients.weights[layer - 1] + unit * (width - context));
            gradients.biases[layer - 1][unit] = unpack_bias(sums + plan.bias_sums[layer] + unit * lanes, lanes);
        }
    });
}

template void PlanMaker::pack(const MafBlock<const float>&, float*) const;
template void PlanMaker::pack(const MafBlock<const double>&, double*) const;
template void PlanMaker::unpack_sums(float*, std::size_t, std::size_t, const MafBlock<float>&) const;
template void PlanMaker::unpack_sums(double*, std::size_t, std::size_t, const MafBlock<double>&) const;

}  // namespace hepgen
