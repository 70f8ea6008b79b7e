// One block of a flow applied to one tile of events, per instruction set.
//
// Events lie across the lanes: a layer's activations are (units, lanes) and a weight is broadcast. A panel is as many
// units as fit in registers; it multiplies only the prefix of the layer before that its units may see.
#pragma once

#include "hepgen/panels.hpp"

namespace hepgen {

inline constexpr int kMapOutputs = 2;  // parameters per column of the element-wise bijection: shift and raw log-scale

// Units [begin, end) of a layer.
struct Part {
    int begin, end;
    Panels panels;
};

// Columns [begin, end) and, per layer, the units that become computable with them.
struct Step {
    int begin, end;
    const Part* layers;  // layers[hidden_layers]: the parameters of these columns
};

// Everything about a block's shape that its tiles need; the same for all blocks of a flow. Plain pointers: what is
// compiled once per instruction set shares no inline function with the rest.
struct MafPlan {
    int features, context, hidden_layers;
    const int* widths;  // context + features, hidden..., kMapOutputs * features
    Activation activation;
    double bound;
    const Step* steps;  // of the values: few wide ones where all columns are known, else one per column
    int step_count;
    const Step* adjoint;  // layers[l]: adjoint of hidden layer l, panels over the transposed weights
    int adjoint_count;
    const Panels* adjoint_inputs;  // the columns' adjoints, as many columns at once as can be
    int adjoint_input_count;
    Panels adjoint_context;
    std::size_t packed_size, sums_size;
    const std::size_t* bias_sums;  // per layer, offset of (units, lanes)
    // per layer, offset in a tile's scratch of (events / lanes, units, lanes)
    const std::size_t *values, *adjoints, *transposed;
    std::size_t values_size, scratch_size;  // the values come first
};

template <class T>
struct MafTile {
    const MafPlan* plan;
    const T* packed;
    const int* order;
    const T* context;          // context[k * stride + event]
    std::size_t stride;        // between columns of the context and of gradients
    std::size_t state_stride;  // between columns of data, base and out
    const T* data;             // data side of the block, (features, events)
    const T* base;             // base side
    T* out;                    // forward: base side; inverse: data side
    T* log_det;                // (events,), added to
    // backward
    const T* log_det_gradient;  // (events,)
    T* gradient;                // (features, events): of the block's output on entry, of its input on return
    T* context_gradient;        // (context, events), added to; null where not wanted
    T* sums;                    // null where not wanted
    bool first;                 // sums are written, not added to
    T* values;                  // where the values go, or where they are
    bool known;                 // they are there
    T* scratch;
};

template <class T>
struct MafKernels {
    using Function = void (*)(const MafTile<T>&);
    int lanes, most_rows;
    Function forward, inverse, forward_backward, inverse_backward;
};

namespace baseline {
MafKernels<float> maf_kernels(float);
MafKernels<double> maf_kernels(double);
}  // namespace baseline
#ifdef HEPGEN_X86
namespace avx2 {
MafKernels<float> maf_kernels(float);
MafKernels<double> maf_kernels(double);
}  // namespace avx2
namespace avx512 {
MafKernels<float> maf_kernels(float);
MafKernels<double> maf_kernels(double);
}  // namespace avx512
#endif

}  // namespace hepgen
