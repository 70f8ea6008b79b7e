#include "hepgen/maf_plan.hpp"

#include <algorithm>
#include <numeric>

namespace hepgen {

std::vector<int> unit_stops(int width, int features, int context) {
    const long lowest = context > 0 || features == 1 ? 0 : 1;
    std::vector<int> stops(features, 0);
    for (long unit = 0; unit < width; ++unit) ++stops[lowest + unit * (features - lowest) / width];
    for (int g = 1; g < features; ++g) stops[g] += stops[g - 1];
    return stops;
}

PlanMaker::PlanMaker(const MafShape& shape, PlanKind kind, int lanes, int most_rows)
    : plan{}, shape_(shape), lanes_(lanes), most_rows_(most_rows) {
    plan.features = shape.features;
    plan.context = shape.context;
    plan.hidden_layers = int(shape.hidden.size());
    plan.activation = shape.activation;
    plan.bound = shape.bound;
    plan.widths.push_back(shape.context + shape.features);
    for (int width : shape.hidden) {
        plan.widths.push_back(width);
        stops_.push_back(unit_stops(width, shape.features, shape.context));
    }
    plan.widths.push_back(kMapOutputs * shape.features);
    for (int layer = 1; layer <= plan.hidden_layers + 1; ++layer) {
        std::vector<int> seen(plan.widths[layer]);
        for (int unit = 0, degree = 0; unit < plan.widths[layer]; ++unit) {
            while (unit >= stop(layer, degree)) ++degree;
            seen[unit] = layer == 1 ? shape.context + degree : stop(layer - 1, degree);
        }
        prefix.push_back(seen);
    }
    make_steps(kind.values_by_column);
    if (kind.backward) make_adjoint(kind.adjoint_by_column);
    lay_out_scratch(kind.backward);
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
        if (by_column || units >= most_rows_ || column + 1 == plan.features) {
            ends.push_back(column + 1);
            begin = column + 1;
        }
    }
    return ends;
}

// Rows [begin, end), each summing over [from, to), in panels of nearly equal height.
void PlanMaker::add_panels(std::vector<Panel>& panels, int begin, int end, int from, int to, bool biased) {
    const int rows = end - begin;
    const int count = (rows + most_rows_ - 1) / most_rows_;
    for (int i = 0; i < count; ++i) {
        const int first = begin + rows * i / count;
        Panel p{first, begin + rows * (i + 1) / count - first, from, to - from, plan.packed_size, kNoBias, plan.sums_size};
        plan.packed_size += std::size_t(p.length) * p.count;
        if (biased) {
            p.bias = plan.packed_size;
            plan.packed_size += p.count;
            plan.sums_size += std::size_t((p.length + lanes_ - 1) / lanes_) * lanes_ * p.count;
        }
        panels.push_back(p);
    }
}

void PlanMaker::make_steps(bool by_column) {
    int begin = 0;
    for (int end : boundaries(by_column)) {
        Step step{begin, end, {}};
        for (int layer = 1; layer <= plan.hidden_layers + 1; ++layer) {
            Step::Part part{stop(layer, begin - 1), stop(layer, end - 1), {}};
            const int seen = layer == 1 ? plan.context + end - 1 : stop(layer - 1, end - 1);
            add_panels(part.panels, part.begin, part.end, 0, seen, true);
            step.layers.push_back(part);
        }
        plan.steps.push_back(step);
        begin = end;
    }
    for (int width : plan.widths) {
        plan.bias_sums.push_back(plan.sums_size);
        plan.sums_size += std::size_t(width) * lanes_;
    }
}

void PlanMaker::make_adjoint(bool by_column) {
    int begin = 0;
    for (int end : boundaries(by_column)) {
        Step step{begin, end, {}};
        for (int layer = 1; layer <= plan.hidden_layers; ++layer) {
            Step::Part part{stop(layer, begin - 1), stop(layer, end - 1), {}};
            add_panels(part.panels, part.begin, part.end, stop(layer + 1, begin - 1), plan.widths[layer + 1], false);
            step.layers.push_back(part);
        }
        plan.adjoint.push_back(step);
        begin = end;
    }
    const int units = plan.widths[1], together = by_column ? 1 : most_rows_;
    for (begin = 0; begin < plan.features; begin += together) {
        if (by_column || plan.adjoint_inputs.empty()) plan.adjoint_inputs.emplace_back();
        const int end = std::min(begin + together, plan.features);
        add_panels(plan.adjoint_inputs.back(), plan.context + begin, plan.context + end, stop(1, begin), units, false);
    }
    add_panels(plan.adjoint_context, 0, plan.context, 0, units, false);
}

void PlanMaker::lay_out_scratch(bool backward) {
    auto take = [this](std::vector<std::size_t>& offsets, std::size_t rows) {
        offsets.push_back(plan.scratch_size);
        plan.scratch_size += rows * kTileEvents;
    };
    for (int width : plan.widths) take(plan.values, width);
    if (!backward) return;
    for (int width : plan.widths) take(plan.adjoints, width);
    for (int width : plan.widths) take(plan.transposed, (width + kMostLanes - 1) / kMostLanes * kMostLanes);
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
void PlanMaker::pack(const MafBlock<const T>& block, T* packed) const {
    const std::vector<T> first = joined_first_layer(plan, block);
    auto matrix = [&](int layer) { return layer == 1 ? first.data() : block.weights[layer - 1]; };
    auto pack_panels = [&](const std::vector<Panel>& panels, int layer) {
        const int width = plan.widths[layer - 1];
        for (const Panel& p : panels) {
            for (int r = 0; r < p.count; ++r) {
                const int unit = p.first + r, seen = std::min(prefix[layer - 1][unit], p.length);
                const T* row = matrix(layer) + std::size_t(unit) * width;
                T* to = packed + p.weights + r;
                for (int k = 0; k < seen; ++k) to[k * p.count] = row[k];
                for (int k = seen; k < p.length; ++k) to[k * p.count] = T(0);
                packed[p.bias + r] = block.biases[layer - 1][unit];
            }
        }
    };
    auto pack_transposed = [&](const std::vector<Panel>& panels, int layer) {
        const int width = plan.widths[layer - 1];
        for (const Panel& p : panels) {
            T* to = packed + p.weights;
            for (int unit = p.from; unit < p.from + p.length; ++unit, to += p.count) {
                const T* row = matrix(layer) + std::size_t(unit) * width + p.first;
                const int seen = std::clamp(prefix[layer - 1][unit] - p.first, 0, p.count);
                for (int r = 0; r < p.count; ++r) to[r] = r < seen ? row[r] : T(0);
            }
        }
    };
    for (const Step& step : plan.steps) {
        for (int layer = 1; layer <= plan.hidden_layers + 1; ++layer) pack_panels(step.layers[layer - 1].panels, layer);
    }
    for (const Step& step : plan.adjoint) {
        for (int layer = 1; layer <= plan.hidden_layers; ++layer) {
            pack_transposed(step.layers[layer - 1].panels, layer + 1);
        }
    }
    for (const auto& panels : plan.adjoint_inputs) pack_transposed(panels, 1);
    pack_transposed(plan.adjoint_context, 1);
}

template <class T>
void PlanMaker::unpack_sums(T* sums, std::size_t groups, std::size_t stride, const MafBlock<T>& gradients) const {
    for (std::size_t g = 1; g < groups; ++g) {
        const T* more = sums + g * stride;
        for (std::size_t i = 0; i < plan.sums_size; ++i) sums[i] += more[i];
    }
    std::vector<T> row(*std::max_element(plan.widths.begin(), plan.widths.end()) + std::size_t(lanes_));
    for (const Step& step : plan.steps) {
        for (int layer = 1; layer <= plan.hidden_layers + 1; ++layer) {
            const std::size_t width = plan.widths[layer - 1];
            const std::size_t context = layer == 1 ? plan.context : 0;  // inputs of the first layer begin with it
            for (const Panel& p : step.layers[layer - 1].panels) {
                for (int r = 0; r < p.count; ++r) {
                    const std::size_t unit = p.first + r, seen = prefix[layer - 1][unit];
                    const T* from = sums + p.sums + r * lanes_;
                    for (std::size_t k = 0; k < seen; k += lanes_, from += p.count * lanes_) {
                        std::copy(from, from + lanes_, row.data() + k);
                    }
                    std::fill(row.begin() + seen, row.end(), T(0));
                    if (context) std::copy_n(row.data(), context, gradients.context_weight + unit * context);
                    std::copy_n(row.data() + context, width - context, gradients.weights[layer - 1] + unit * (width - context));
                    const T* lane = sums + plan.bias_sums[layer] + unit * lanes_;
                    gradients.biases[layer - 1][unit] = std::accumulate(lane, lane + lanes_, T(0));
                }
            }
        }
    }
}

template void PlanMaker::pack(const MafBlock<const float>&, float*) const;
template void PlanMaker::pack(const MafBlock<const double>&, double*) const;
template void PlanMaker::unpack_sums(float*, std::size_t, std::size_t, const MafBlock<float>&) const;
template void PlanMaker::unpack_sums(double*, std::size_t, std::size_t, const MafBlock<double>&) const;

}  // namespace hepgen
