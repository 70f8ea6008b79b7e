// A step of Energy Conserving Descent (see hepgen/ecd.hpp) on the current device, over all tensors at once.
//
// Two launches: the first sums v.v, v.g, g.g and p.p over pieces, and the block that finishes last adds the pieces up
// in a fixed order and decides how far each tensor moves; the second moves. The host never waits: whether a step was
// refused is kept in a state on the device, and later steps do nothing until the state is cleared.
#pragma once

#include <cstddef>
#include <cstdint>

#include "hepgen/cuda/stream.hpp"

namespace hepgen::cuda {

// Of every tensor, each field a row of 8-byte words (fields, tensors). first_piece: the number of pieces before.
// ranked: the tensors themselves, those of few pieces first. From `gradient` on they may change from step to step.
enum class EcdField { parameter, velocity, size, first_piece, ranked, gradient, scale, weight_decay, count };

// Words of the state: blocks that have finished; how the first step since it was cleared that did not move ended, as
// EcdOutcome, how many did not move, its loss with weight decay (a double; the last one's where all moved); and the
// number of the step that moves, which names its noise.
enum class EcdState { finished, outcome, refused, loss, step, count };

// Everything lies on the device.
struct EcdPlan {
    std::uint64_t* table;  // (EcdField::count, tensors)
    std::int32_t* owner;   // (pieces,) the tensor that a piece belongs to
    std::uint64_t* state;  // (EcdState::count,) zeros at the beginning
    std::byte* workspace;  // of ecd_workspace() bytes, aligned to 16
    std::int64_t tensors, pieces;
    std::int64_t piece;  // elements of a piece, a multiple of ecd_tile(); the last of a tensor may have fewer
    std::int64_t parameters;
    std::int64_t few, some;  // in `ranked` the first tensors of more than 8 and of more than 256 pieces
};

// factor * *at, or factor where there is no `at`: a number of float or double on the device.
struct EcdNumber {
    double factor;
    const void* at;
    bool wide;
};

struct EcdRule {
    EcdNumber loss, time_step;
    double eta, f0, nu, q;
    bool per_tensor;
    std::uint64_t seed;
    std::uint32_t step;
    const std::int64_t* steps;  // added to `step` where given
};

std::size_t ecd_workspace(std::int64_t tensors, std::int64_t pieces);

// Elements of `size` bytes that a block handles at a time.
std::int64_t ecd_tile(std::size_t size);

// Copies words from the host into the table, from word `first` on: as arguments of launches, so that neither the host
// nor the recording of a graph has to keep them.
void ecd_write(const EcdPlan& plan, std::int64_t first, const std::uint64_t* words, std::int64_t count, Stream stream);

// Fills `owner` from the table.
void ecd_share(const EcdPlan& plan, Stream stream);

template <class T>
void ecd_step(const EcdPlan& plan, const EcdRule& rule, Stream stream);

}  // namespace hepgen::cuda
