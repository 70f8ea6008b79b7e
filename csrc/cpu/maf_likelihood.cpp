#include <algorithm>
#include <cmath>
#include <vector>

#include "hepgen/maf_call.hpp"
#include "hepgen/parallel.hpp"

namespace hepgen {
namespace {

// So many rows go through all blocks and back: their hidden units fit into the second and third cache level.
constexpr std::size_t kSweepEvents = 128;

template <class T>
struct Likelihood {
    MafCall<T>& call;
    MafSums<T>& sums;
    Rows<const T> in, context_in, event_weights;
    T *log_prob, *in_gradient, *context_gradient;
    bool backward;

    // The memory of one group, used for one sweep after the other.
    struct Memory {
        std::size_t stride;  // between columns
        Aligned<T> scratch, states, values, weights, log_det, gradient, context, of_context;

        Memory(const MafCall<T>& call, std::size_t stride_)
            : stride(stride_),
              scratch(allocate<T>(call.maker.plan.scratch_size)),
              states(allocate<T>((call.shape.blocks + 1) * call.shape.features * stride)),
              values(allocate<T>(call.shape.blocks * stride / kTileEvents * call.maker.plan.values_size)),
              weights(allocate<T>(stride)),
              log_det(allocate<T>(stride)),
              gradient(allocate<T>(call.shape.features * stride)),
              context(allocate<T>(call.shape.context * stride)),
              of_context(allocate<T>(call.shape.context * stride)) {}
    };

    // Returns the group's share of the sum.
    double run(std::size_t group) {
        const std::size_t begin = sums.groups.begin(group), end = sums.groups.end(group);
        Memory m(call, std::min(kSweepEvents, end - begin));
        double total = 0;
        for (std::size_t first = begin; first < end; first += m.stride) {
            const std::size_t size = std::min(m.stride, end - first);
            go_forward(m, first, size);
            total += finish_densities(m, first, size);
            if (backward) go_back(m, group, first == begin, first, size);
        }
        return total;
    }

    MafTile<T> tile(Memory& m, int block, std::size_t e) {
        const std::size_t state_size = call.shape.features * m.stride, tiles = m.stride / kTileEvents;
        MafTile<T> tile = call.tile(block, m.stride, m.scratch.get());
        tile.context = m.context.get() + e;
        tile.data = m.states.get() + block * state_size + e;
        tile.base = tile.data + state_size;
        tile.out = m.states.get() + (block + 1) * state_size + e;
        tile.values = m.values.get() + (block * tiles + e / kTileEvents) * call.maker.plan.values_size;
        return tile;
    }

    void go_forward(Memory& m, std::size_t first, std::size_t size) {
        const MafShape& shape = call.shape;
        gather(in, call.n, shape.features, first, first + size, m.states.get(), m.stride);
        gather(context_in, call.n, shape.context, first, first + size, m.context.get(), m.stride);
        std::fill_n(m.log_det.get(), size, T(0));
        for (int block = 0; block < shape.blocks; ++block) {
            for (std::size_t e = 0; e < size; e += kTileEvents) {
                MafTile<T> t = tile(m, block, e);
                t.log_det = m.log_det.get() + e;
                call.functions.forward(t);
            }
        }
    }

    // log p = log_det - z^2 / 2 - d / 2 log(2 pi), the gradients of -w log p with respect to z and log_det, and the sum
    // of -w log p. Rows that only fill the last tile have no weight.
    double finish_densities(Memory& m, std::size_t first, std::size_t size) {
        const int d = call.shape.features;
        const T constant = T(0.5 * d * std::log(2 * 3.14159265358979323846));
        const T* z = m.states.get() + call.shape.blocks * d * m.stride;
        double total = 0;
        for (std::size_t i = 0; i < size; ++i) {
            const bool there = first + i < call.n;
            const T weight = there ? event_weights.at(first + i, 0) : T(0);
            T squares = 0;
            for (int k = 0; k < d; ++k) {
                squares += z[k * m.stride + i] * z[k * m.stride + i];
                m.gradient[k * m.stride + i] = there ? weight * z[k * m.stride + i] : T(0);
            }
            const T density = m.log_det[i] - T(0.5) * squares - constant;
            m.log_det[i] = -weight;
            if (!there) continue;
            log_prob[first + i] = density;
            total -= double(weight) * double(density);
        }
        return total;
    }

    void go_back(Memory& m, std::size_t group, bool first_sweep, std::size_t first, std::size_t size) {
        const MafShape& shape = call.shape;
        std::fill_n(m.of_context.get(), shape.context * m.stride, T(0));
        for (int block = shape.blocks - 1; block >= 0; --block) {
            for (std::size_t e = 0; e < size; e += kTileEvents) {
                MafTile<T> t = tile(m, block, e);
                t.known = true;
                t.log_det_gradient = m.log_det.get() + e;
                t.gradient = m.gradient.get() + e;
                t.context_gradient = context_gradient ? m.of_context.get() + e : nullptr;
                t.sums = sums.at(group, block);
                t.first = first_sweep && e == 0;
                call.functions.forward_backward(t);
            }
        }
        const std::size_t end = std::min(first + size, call.n);
        if (in_gradient) scatter(m.gradient.get(), m.stride, shape.features, first, end, in_gradient);
        if (context_gradient) scatter(m.of_context.get(), m.stride, shape.context, first, end, context_gradient);
    }
};

}  // namespace

template <class T>
void maf_likelihood(const MafShape& shape, const std::vector<MafBlock<const T>>& blocks, std::size_t n,
                    Rows<const T> in, Rows<const T> context, Rows<const T> event_weights, int threads, T* log_prob,
                    T* sum, T* in_gradient, T* context_gradient, const std::vector<MafBlock<T>>& gradients) {
    const bool backward = in_gradient || context_gradient || !gradients.empty();
    MafCall<T> call(shape, {false, false, backward}, blocks, n);
    MafSums<T> sums(call, !gradients.empty());
    Likelihood<T> pass{call, sums, in, context, event_weights, log_prob, in_gradient, context_gradient, backward};
    const std::size_t groups = n ? sums.groups.count : 0;
    std::vector<double> shares(groups);
    parallel_stages(threads_for(n, threads),
                    {{n ? std::size_t(shape.blocks) : 0, [&](std::size_t block) { call.pack(block); }},
                     {groups, [&](std::size_t group) { shares[group] = pass.run(group); }},
                     {gradients.size(), [&](std::size_t block) { sums.finish(call, block, gradients[block]); }}});
    double total = 0;
    for (double share : shares) total += share;
    *sum = T(total);
}

#define HEPGEN_INSTANTIATE(T)                                                                            \
    template void maf_likelihood<T>(const MafShape&, const std::vector<MafBlock<const T>>&, std::size_t, \
                                    Rows<const T>, Rows<const T>, Rows<const T>, int, T*, T*, T*, T*,    \
                                    const std::vector<MafBlock<T>>&);
HEPGEN_INSTANTIATE(float)
HEPGEN_INSTANTIATE(double)
#undef HEPGEN_INSTANTIATE

}  // namespace hepgen
