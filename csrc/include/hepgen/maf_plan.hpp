// How the masks of a flow's blocks fall into panels, and the packing of weights into them.
#pragma once

#include <deque>
#include <vector>

#include "hepgen/maf.hpp"
#include "hepgen/panel_maker.hpp"

namespace hepgen {

// How many of the units of a layer are of degree <= g, for g = 0 ... features - 1. Degrees ascend and are spread evenly
// over 0 ... features - 1, or from 1 where no context gives units of degree 0 anything to see.
std::vector<int> unit_stops(int width, int features, int context);

struct PlanKind {
    bool values_by_column;   // the inverse: a column must be solved before the next can be seen
    bool adjoint_by_column;  // the inverse's gradient
    bool backward;           // with the transposed weights and the sums
};

class PlanMaker {
  public:
    PlanMaker(const MafShape& shape, PlanKind kind, int lanes, int most_rows);
    PlanMaker(const PlanMaker&) = delete;  // the plan points into it
    PlanMaker& operator=(const PlanMaker&) = delete;

    MafPlan plan;

    // prefix[l][o]: how many inputs unit o of layer l + 1 may see
    std::vector<std::vector<int>> prefix;

    template <class T>
    void pack(const MafBlock<const T>& block, T* packed) const;

    // The gradients of one block from its sums in groups, `stride` apart, added in order into the first.
    template <class T>
    void unpack_sums(T* sums, std::size_t groups, std::size_t stride, const MafBlock<T>& gradients) const;

  private:
    int stop(int layer, int column) const;
    std::vector<int> boundaries(bool by_column) const;
    void make_steps(bool by_column);
    void make_adjoint(bool by_column);
    void lay_out_scratch(bool backward);

    template <class T>
    LayerWeights<T> layer(const MafBlock<const T>& block, const T* first, int layer) const;

    template <class Body>
    void for_each_panel(const Body& body) const;

    const MafShape& shape_;
    PanelMaker panels_;
    std::vector<int> widths_;
    std::vector<std::vector<int>> stops_;  // per hidden layer
    std::vector<Step> steps_, adjoint_;
    std::vector<Panels> adjoint_inputs_;
    std::vector<std::size_t> bias_sums_, values_, adjoints_, transposed_;
    std::deque<std::vector<Part>> parts_;  // a deque, for what it holds stays where it is
};

}  // namespace hepgen
