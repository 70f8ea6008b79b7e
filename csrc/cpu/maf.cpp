#include "hepgen/maf.hpp"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <new>

#include "hepgen/isa.hpp"
#include "hepgen/maf_plan.hpp"
#include "hepgen/parallel.hpp"

namespace hepgen {
namespace {

constexpr std::size_t kChunkEvents = 256;   // one thread takes so many through the whole flow
constexpr std::size_t kMostGroups = 32;     // partial sums of weight gradients
constexpr std::size_t kSumsBytes = 128 << 20;  // what these may take

std::size_t round_up(std::size_t n, std::size_t step) { return (n + step - 1) / step * step; }

struct Free {
    void operator()(void* p) const { std::free(p); }
};
template <class T>
using Aligned = std::unique_ptr<T[], Free>;

template <class T>
Aligned<T> allocate(std::size_t count) {
    void* p = std::aligned_alloc(64, round_up(std::max<std::size_t>(count * sizeof(T), 1), 64));
    if (!p) throw std::bad_alloc();
    return Aligned<T>(static_cast<T*>(p));
}

template <class T>
MafKernels<T> kernels() {
    switch (active_isa()) {
#ifdef HEPGEN_X86
        case Isa::avx512:
            return avx512::maf_kernels(T{});
        case Isa::avx2:
            return avx2::maf_kernels(T{});
#endif
        default:
            return baseline::maf_kernels(T{});
    }
}

// The parts of one call that do not change from tile to tile.
template <class T>
struct Flow {
    const MafShape& shape;
    const std::vector<MafBlock<const T>>& blocks;
    MafKernels<T> functions;
    PlanMaker maker;
    std::size_t n, padded;
    std::vector<int> orders;
    Aligned<T> packed, context;

    Flow(const MafShape& shape_, PlanKind kind, const std::vector<MafBlock<const T>>& blocks_, std::size_t n_)
        : shape(shape_),
          blocks(blocks_),
          functions(kernels<T>()),
          maker(shape_, kind, functions.lanes, functions.most_rows),
          n(n_),
          padded(round_up(n_, kTileEvents)),
          orders(shape_.orders, shape_.orders + shape_.blocks * shape_.features),
          packed(allocate<T>(maker.plan.packed_size * shape_.blocks)),
          context(allocate<T>(padded * shape_.context)) {}

    // One task for every block, then `count` of body, which find all blocks packed.
    template <class Body>
    void run(int threads, std::size_t count, const Body& body) {
        const std::size_t packing = blocks.size();
        std::atomic<unsigned> packed_blocks{0};
        parallel_tasks(threads, packing + count, [&](std::size_t task) {
            if (task < packing) {
                maker.pack(blocks[task], block_weights(int(task)));
                packed_blocks.fetch_add(1, std::memory_order_release);
            } else {
                wait_until(packed_blocks, unsigned(packing));
                body(task - packing);
            }
        });
    }

    T* block_weights(int block) { return packed.get() + block * maker.plan.packed_size; }
    const int* order(int block) const { return orders.data() + std::size_t(block) * shape.features; }

    // Rows [begin, end) of `in` into columns; those that only fill the last tile repeat the last row.
    void gather(const Rows<const T>& in, int columns, std::size_t begin, std::size_t end, T* out) const {
        for (int k = 0; k < columns; ++k) {
            for (std::size_t i = begin; i < end; ++i) out[k * padded + i] = in.at(std::min(i, n - 1), k);
        }
    }

    void scatter(const T* columns, int count, std::size_t begin, std::size_t end, T* out) const {
        for (std::size_t i = begin; i < std::min(end, n); ++i) {
            for (int k = 0; k < count; ++k) out[i * count + k] = columns[k * padded + i];
        }
    }
};

int threads_for(std::size_t n, int threads) { return n > 2 * kTileEvents ? threads : 1; }

}  // namespace

std::size_t maf_record_size(const MafShape& shape, std::size_t n) {
    return std::size_t(shape.blocks + 1) * shape.features * round_up(n, kTileEvents);
}

template <class T>
void maf_apply(Direction direction, const MafShape& shape, const std::vector<MafBlock<const T>>& blocks, std::size_t n,
               Rows<const T> in, Rows<const T> context, int threads, T* out, T* log_det, T* record) {
    if (n == 0) return;
    threads = threads_for(n, threads);
    const bool forward = direction == Direction::forward;
    Flow<T> flow(shape, {!forward, false, false}, blocks, n);
    const int d = shape.features;
    // states[b] is the data side of block b, and the base side of block b - 1
    const std::size_t state_size = record ? d * flow.padded : 0;
    Aligned<T> own = allocate<T>(record ? 0 : d * flow.padded);
    Aligned<T> log_dets = allocate<T>(flow.padded);
    T* states = record ? record : own.get();
    const std::size_t chunk = std::min(kChunkEvents, round_up((flow.padded + threads - 1) / threads, kTileEvents));
    flow.run(threads, (flow.padded + chunk - 1) / chunk, [&](std::size_t task) {
        const std::size_t begin = task * chunk, end = std::min(begin + chunk, flow.padded);
        Aligned<T> scratch = allocate<T>(flow.maker.plan.scratch_size);
        flow.gather(in, d, begin, end, states + (forward ? 0 : shape.blocks * state_size));
        flow.gather(context, shape.context, begin, end, flow.context.get());
        std::fill(log_dets.get() + begin, log_dets.get() + end, T(0));
        for (int step = 0; step < shape.blocks; ++step) {
            const int block = forward ? step : shape.blocks - 1 - step;
            T* data = states + block * state_size;
            T* base = states + (block + 1) * state_size;
            for (std::size_t e = begin; e < end; e += kTileEvents) {
                MafTile<T> tile{};
                tile.plan = &flow.maker.plan;
                tile.packed = flow.block_weights(block);
                tile.order = flow.order(block);
                tile.context = flow.context.get() + e;
                tile.stride = flow.padded;
                tile.data = data + e;
                tile.base = base + e;
                tile.out = (forward ? base : data) + e;
                tile.log_det = log_dets.get() + e;
                tile.scratch = scratch.get();
                (forward ? flow.functions.forward : flow.functions.inverse)(tile);
            }
        }
        flow.scatter(states + (forward ? shape.blocks * state_size : 0), d, begin, end, out);
        flow.scatter(log_dets.get(), 1, begin, end, log_det);
    });
}

template <class T>
void maf_backward(Direction direction, const MafShape& shape, const std::vector<MafBlock<const T>>& blocks,
                  std::size_t n, const T* record, Rows<const T> context, Rows<const T> out_gradient,
                  Rows<const T> log_det_gradient, int threads, T* in_gradient, T* context_gradient,
                  const std::vector<MafBlock<T>>& gradients) {
    threads = threads_for(n, threads);
    const bool forward = direction == Direction::forward;
    Flow<T> flow(shape, {false, !forward, true}, blocks, n);
    const MafPlan& plan = flow.maker.plan;
    const int d = shape.features;
    const std::size_t state_size = d * flow.padded;
    const std::size_t block_sums = gradients.empty() ? 0 : plan.sums_size, flow_sums = block_sums * shape.blocks;
    const std::size_t affordable = std::max<std::size_t>(4, kSumsBytes / (1 + flow_sums * sizeof(T)));
    const std::size_t most_groups = std::min(kMostGroups, affordable);
    const std::size_t chunk = std::max(2 * std::size_t(kTileEvents), round_up((n + most_groups - 1) / most_groups, kTileEvents));
    const std::size_t groups = std::max<std::size_t>(1, (flow.padded + chunk - 1) / chunk);
    Aligned<T> sums = allocate<T>(flow_sums * groups), gradient = allocate<T>(d * flow.padded),
               log_det = allocate<T>(flow.padded),
               context_sum = allocate<T>(context_gradient ? shape.context * flow.padded : 0);
    std::atomic<unsigned> done{0};
    auto backward_of_group = [&](std::size_t group) {
        const std::size_t begin = group * chunk, end = std::min(begin + chunk, flow.padded);
        Aligned<T> scratch = allocate<T>(plan.scratch_size);
        flow.gather(context, shape.context, begin, end, flow.context.get());
        flow.gather(out_gradient, d, begin, end, gradient.get());
        flow.gather(log_det_gradient, 1, begin, end, log_det.get());
        for (std::size_t i = std::max(begin, n); i < end; ++i) {
            log_det[i] = T(0);
            for (int k = 0; k < d; ++k) gradient[k * flow.padded + i] = T(0);
        }
        for (int k = 0; context_gradient && k < shape.context; ++k) {
            std::fill(context_sum.get() + k * flow.padded + begin, context_sum.get() + k * flow.padded + end, T(0));
        }
        for (int step = 0; step < shape.blocks; ++step) {
            const int block = forward ? shape.blocks - 1 - step : step;
            for (std::size_t e = begin; e < end; e += kTileEvents) {
                MafTile<T> tile{};
                tile.plan = &plan;
                tile.packed = flow.block_weights(block);
                tile.order = flow.order(block);
                tile.context = flow.context.get() + e;
                tile.stride = flow.padded;
                tile.data = record + block * state_size + e;
                tile.base = record + (block + 1) * state_size + e;
                tile.log_det_gradient = log_det.get() + e;
                tile.gradient = gradient.get() + e;
                tile.context_gradient = context_gradient ? context_sum.get() + e : nullptr;
                tile.sums = block_sums ? sums.get() + group * flow_sums + block * block_sums : nullptr;
                tile.first = e == begin;
                tile.scratch = scratch.get();
                (forward ? flow.functions.forward_backward : flow.functions.inverse_backward)(tile);
            }
        }
        if (in_gradient) flow.scatter(gradient.get(), d, begin, end, in_gradient);
        if (context_gradient) flow.scatter(context_sum.get(), shape.context, begin, end, context_gradient);
    };
    if (n == 0) {
        std::fill(sums.get(), sums.get() + flow_sums, T(0));
        for (std::size_t b = 0; b < gradients.size(); ++b) {
            flow.maker.unpack_sums(sums.get() + b * block_sums, 1, flow_sums, gradients[b]);
        }
        return;
    }
    flow.run(threads, groups + gradients.size(), [&](std::size_t task) {
        if (task < groups) {
            backward_of_group(task);
            done.fetch_add(1, std::memory_order_release);
        } else {
            wait_until(done, unsigned(groups));
            const std::size_t b = task - groups;
            flow.maker.unpack_sums(sums.get() + b * block_sums, groups, flow_sums, gradients[b]);
        }
    });
}

#define HEPGEN_INSTANTIATE(T)                                                                                          \
    template void maf_apply<T>(Direction, const MafShape&, const std::vector<MafBlock<const T>>&, std::size_t,         \
                               Rows<const T>, Rows<const T>, int, T*, T*, T*);                                         \
    template void maf_backward<T>(Direction, const MafShape&, const std::vector<MafBlock<const T>>&, std::size_t,      \
                                  const T*, Rows<const T>, Rows<const T>, Rows<const T>, int, T*, T*,                  \
                                  const std::vector<MafBlock<T>>&);
HEPGEN_INSTANTIATE(float)
HEPGEN_INSTANTIATE(double)
#undef HEPGEN_INSTANTIATE

}  // namespace hepgen
