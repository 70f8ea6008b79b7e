// The element-wise halves of an ECD step (see ecd.hpp) over one contiguous piece of a tensor, and its noise.
#pragma once

#include <cstddef>
#include <cstdint>

#include "hepgen/isa.hpp"

namespace hepgen {

// A piece of one tensor. The gradient that counts is gradient + weight_decay * parameter.
template <class T>
struct EcdPiece {
    T* parameter;
    T* velocity;
    const T* gradient;
    std::size_t size;
    T weight_decay;
};

struct EcdSums {
    double vv, vg, gg;  // velocity . velocity, velocity . gradient, gradient . gradient
    double pp;          // parameter . parameter, 0 without weight decay
};

// w = of_velocity * v - of_gradient * g;  parameter += time * w;  v = inverse_norm * w + bounce * noise
template <class T>
struct EcdMove {
    T of_velocity, of_gradient, time, inverse_norm, bounce;
    const T* noise;  // (size,), null where there is no bounce
};

// Numbers come in groups, so that every instruction set makes whole vectors of them: a call begins at a group's
// start and fills whole groups.
inline constexpr std::size_t kNoiseGroup = 64;

struct NoiseKey {
    std::uint64_t seed;
    std::uint64_t tensor;  // below 2^24
    std::uint32_t step;
};

#define HEPGEN_ECD_FUNCTIONS(isa)                                                                 \
    namespace isa {                                                                               \
    EcdSums ecd_sums(const EcdPiece<float>& piece);                                               \
    EcdSums ecd_sums(const EcdPiece<double>& piece);                                              \
    void ecd_move(const EcdPiece<float>& piece, const EcdMove<float>& move);                      \
    void ecd_move(const EcdPiece<double>& piece, const EcdMove<double>& move);                    \
    /* out: elements first ... first + count of the tensor's noise, rounded up to whole groups */ \
    void normal_noise(const NoiseKey& key, std::size_t first, std::size_t count, float* out);     \
    void normal_noise(const NoiseKey& key, std::size_t first, std::size_t count, double* out);    \
    }

HEPGEN_ECD_FUNCTIONS(baseline)
#ifdef HEPGEN_X86
HEPGEN_ECD_FUNCTIONS(avx2)
HEPGEN_ECD_FUNCTIONS(avx512)
#endif
#undef HEPGEN_ECD_FUNCTIONS

}  // namespace hepgen
