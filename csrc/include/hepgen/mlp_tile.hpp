// All layers of a perceptron applied to one tile of events, per instruction set; layouts as in layer.hpp.
#pragma once

#include <cstdint>

#include "hepgen/panels.hpp"

namespace hepgen {

enum class MlpOutput { linear, sigmoid, tanh };

// Everything about a network's shape that its tiles need. Offsets are per layer, 0 being the input.
struct MlpPlan {
    int layers;
    const int* widths;  // layers + 1
    Activation activation;
    MlpOutput output;
    bool shortcuts;
    const Panels* values;    // [layer - 1], over the layer before
    const Panels* adjoints;  // [layer], over the transposed weights of the layer after
    const std::size_t *values_at, *adjoints_at, *transposed_at, *bias_sums;

    // The values of the hidden layer two before are added before the activation (He et al. 2015): layer 3, 5, ...
    bool has_shortcut(int layer) const { return shortcuts && layer > 2 && layer % 2 == 1 && layer < layers; }
};

// Hidden units are left out with a probability of out_of_65536 / 65536, and the others scaled up.
struct MlpDropout {
    std::uint32_t out_of_65536;  // 0: none
    std::uint64_t seed;
};

template <class T>
struct MlpTile {
    const MlpPlan* plan;
    MlpDropout dropout;
    std::uint32_t number;  // of the tile in the call
    const T* packed;
    int strips;  // in use
    T* values;   // the input's on entry, the other layers' on return
    // backward
    bool known;  // the values are there
    bool wants_input;
    T* adjoints;  // of the output on entry, of the input on return
    T* transposed;
    T* sums;     // null where not wanted
    bool first;  // sums are written, not added to
};

template <class T>
struct MlpKernels {
    using Function = void (*)(const MlpTile<T>&);
    int lanes, most_rows, strip_events;
    Function forward, backward;
};

namespace baseline {
MlpKernels<float> mlp_kernels(float);
MlpKernels<double> mlp_kernels(double);
}  // namespace baseline
#ifdef HEPGEN_X86
namespace avx2 {
MlpKernels<float> mlp_kernels(float);
MlpKernels<double> mlp_kernels(double);
}  // namespace avx2
namespace avx512 {
MlpKernels<float> mlp_kernels(float);
MlpKernels<double> mlp_kernels(double);
}  // namespace avx512
#endif

}  // namespace hepgen
