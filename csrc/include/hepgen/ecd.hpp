// Energy Conserving Descent (De Luca, Nachman, Silverstein, Zheng; eqs 14 to 18 and B7), one step over all tensors.
//
// With unit velocity u, F the loss with weight decay and d the number of parameters:
//   u <- R u / |u|,  R^2 = (F - F0)^(-eta d (q - 1) / (d - q))      energy conservation; R = 1 for q = 1
//   u <- u - dt eta d / (2 (d - q) (F - F0)) (R^2 grad F + (q - 2) (u . grad F) u)
//   theta <- theta + dt u
//   v <- u / |u| + nu z,  z ~ N(0, 1)                               the bounce of the next step
// B7 prints d - 1 where d - q stands here: only that follows from its B5 and keeps B6, and for q = 1 they are one.
//
// Two passes: the first sums v.v, v.g and g.g, from which follow |u| before and after the kick; the second moves. A
// velocity of zero, as at the beginning, stands for -grad F. Sums are made over fixed pieces in double and added in
// order: the same bits for any number of threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace hepgen {

// A contiguous tensor. Coordinates are theta / scale: a tensor's own time step is scale * dt.
template <class T>
struct EcdTensor {
    T* parameter;
    T* velocity;
    const T* gradient;
    std::size_t size;
    double scale, weight_decay;
};

struct EcdRule {
    double time_step, eta, f0, nu, q;
    bool per_tensor;  // u . grad F tensor by tensor, as the authors' published code has it, not over all of them
    std::uint64_t seed;
    std::uint32_t step;
};

enum class EcdOutcome { moved, loss_too_low, not_finite };

// `loss` without weight decay. Unless the outcome is `moved` nothing has been changed: the loss with weight decay is
// not above f0, or the sums or what follows from them are not finite. full_loss: with weight decay.
template <class T>
EcdOutcome ecd_step(const std::vector<EcdTensor<T>>& tensors, double loss, const EcdRule& rule, int threads,
                    double* full_loss);

// The numbers z of elements 0 ... count of a tensor, for tests and for those who want to know.
template <class T>
void ecd_noise(std::uint64_t seed, std::uint32_t step, std::uint64_t tensor, std::size_t count, T* out);

}  // namespace hepgen
