// The binned method. Every sample is shared between the two nearest bins, in shared memory, as integers: its count and
// its offset in the bin. A bin's value is sum w - sum w t + (sum w t of the bin before). Bins beyond the shared window,
// and what the blocks have, are added in the level-2 cache.
#include "hepgen/cuda/kde_quads.hpp"

namespace hepgen::cuda {
namespace {

constexpr int kCountBit = 29;         // of a packed word: the count lies above the sum of the offsets
constexpr int kLeastOffsetBits = 14;  // of a sample's offset
constexpr std::int64_t kFewRows = 1 << 17;

// The kernel is cut after so many bandwidths: 6.7e-10 and 1.3e-14 of its peak.
template <class T>
inline constexpr double kReach = sizeof(T) == 4 ? 6.5 : 8.0;

using Bin = unsigned long long;  // a signed sum, as atomicAdd has it

// --- axes

struct AxisTask {
    KdeGrid grid;
    std::int64_t size;
    int features, bits;
    double rows;
    const double* weight_sum;
    Axis* axes;
    std::int64_t* bins;  // made zero, where not null
    double reach;        // in bandwidths
};

// One block a feature.
template <class T>
HEPGEN_KERNEL(256, 1)
axis_kernel(AxisTask task, const T* weight_peak) {
    HEPGEN_SHARED double scratch[kWarp];
    const int f = int(blockIdx.x), points = task.grid.points, tid = int(threadIdx.x);
    const std::int64_t row = task.size + 1;
    if (task.bins) {
        for (std::int64_t i = tid; i < row; i += blockDim.x) task.bins[f * row + i] = 0;
    }
    const double* at = task.grid.shared ? task.grid.grid : task.grid.grid + f;
    const std::int64_t stride = task.grid.shared ? 1 : task.features;
    const double first = at[0], last = at[(points - 1) * stride], step = (last - first) / double(points - 1);
    const double slack =
        1e-3 * step + 1e-6 * fmax(fabs(first), fabs(last));  // float32 grids wobble in their last digits
    double uneven = 0;
    for (int g = 1 + tid; g < points; g += blockDim.x) {
        uneven += !(fabs(at[g * stride] - at[(g - 1) * stride] - step) <= slack);
    }
    uneven = block_sum(uneven, scratch);
    if (tid != 0) return;
    const double b = task.grid.bandwidth[f], nan = std::numeric_limits<double>::quiet_NaN();
    const double reach = ceil(task.reach * b / step);
    const bool good = uneven == 0 && step > 0 && b > 0 && reach <= double(task.grid.pad);
    const double peak = weight_peak ? double(*weight_peak) : 0.5;
    const double total = task.weight_sum ? *task.weight_sum : task.rows;
    Axis axis{first, 1 / step, step, step / b, reach, 1 / (total * b * 2.5066282746310005), 1, 0};
    if (peak > 0 && peak < std::numeric_limits<double>::infinity()) {
        const int exponent = task.bits - 1 - ilogb(peak);
        axis.scale = ldexp(1.0, exponent < 126 ? exponent : 126);  // a float too
    }
    if (!good) axis = {nan, nan, nan, 1, 0, nan, axis.scale, 0};
    task.axes[f] = axis;
}

// --- samples into bins

template <class T>
struct BinTask {
    Rows rows;
    Window window;
    const T *x, *weights;
    const Axis* axes;
    std::int64_t* bins;
    int size, pad, bits;
};

// Of a sample, in units of 1 / scale: its weight, and what of that goes to the bin on the right.
struct Share {
    std::int64_t count, moved;
};

HEPGEN_FN void add_global(std::int64_t* at, std::int64_t x) {
    if (x) atomicAdd(reinterpret_cast<Bin*>(at), Bin(x));
}

// One 64-bit sum of two words: the upper one is touched where the lower one overflows.
HEPGEN_FN void add_pair(unsigned* low, int* high, std::int64_t x) {
    const unsigned added = unsigned(x), old = atomicAdd(low, added);
    const int up = int(x >> 32) + (old + added < old ? 1 : 0);
    if (up) atomicAdd(high, up);
}

HEPGEN_FN std::int64_t pair(const unsigned* low, const int* high, int i) {
    return std::int64_t(Bin(std::int64_t(high[i])) << 32) + std::int64_t(low[i]);
}

// Samples without weights take one sum: count * 2^29 + sum of the offsets, in units of 2^-bits.
template <class T, bool fast, bool ones>
HEPGEN_KERNEL(threads_of(fast, ones), 1)
bin_kernel(BinTask<T> task) {
    constexpr int planes = ones ? 1 : 2;
    const Rows& rows = task.rows;
    const int window = task.window.count, words = rows.group * window, tid = int(threadIdx.x);
    const int feature = int(blockIdx.y) * rows.group, bits = task.bits;
    const std::int64_t row = std::int64_t(task.size) + 1;
    // a spare word takes what is outside the window
    const int plane = words + 1;
    unsigned* const low = shared_memory<unsigned>();
    int* const high = reinterpret_cast<int*>(low + planes * plane);
    for (int i = tid; i < 2 * planes * plane; i += blockDim.x) low[i] = 0;
    __syncthreads();

    const Span<T> span(rows, task.x);
    const double to = double(task.pad - task.window.begin), scale = task.axes[0].scale;
    const double half = ones && fast ? 0.5 / double(1 << bits) : 0.0;
    Slots slots;
    SharedAddress base[4];
    const auto place = [&](int quad) {
        slots.template place<fast>(rows, task.axes, 4 * quad - span.begin, to, half);
#pragma unroll
        for (int i = 0; i < 4; ++i) base[i] = shared_address(low) + 4 * slots.local[i] * window;
    };
    const auto offset_of = [&](const Spot& spot) {
        return fast ? spot.offset >> (32 - bits) : unsigned(rint(spot.t * double(1 << bits)));
    };
    const auto share_of = [&](int i, const Spot& spot) -> Share {
        if constexpr (ones) return {1 << bits, offset_of(spot)};
        const T w = task.weights ? task.weights[span.first + slots.row + slots.more[i]] : T(1);
        if constexpr (fast) {  // at most 2^30
            const std::int64_t count = int(rintf(w * T(scale)));
            return {count, (count * std::int64_t(spot.offset) + (std::int64_t(1) << 31)) >> 32};
        } else {
            return {std::int64_t(rint(double(w) * scale)), std::int64_t(rint(double(w) * scale * spot.t))};
        }
    };
    const auto add_outside = [&](int i, T x, const Spot& spot) {
        std::int64_t* const to_feature = task.bins + (feature + slots.local[i]) * row;
        if (x != x) to_feature[task.size] = 1;
        const std::int64_t bin = std::int64_t(spot.bin) + task.window.begin;
        if (bin < 0 || bin >= task.size - 1) return;
        const Share share = share_of(i, spot);
        add_global(to_feature + bin, share.count - share.moved);
        add_global(to_feature + bin + 1, share.moved);
    };
    const auto body = [&](int, const Quad<T>& x, int, int) {
        Spot spots[4];
        bool inside[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            spots[i] = locate<fast>(x.at[i], slots.inverse[i], slots.shift[i], to);
            inside[i] = unsigned(spots[i].bin) < unsigned(window);
        }
        if constexpr (ones) {
            const SharedAddress spare = shared_address(low + words);
            SharedAddress at[4];
            unsigned sum[4], old[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                at[i] = inside[i] ? base[i] + 4 * spots[i].bin : spare;
                const unsigned added = (1u << kCountBit) + offset_of(spots[i]);
                old[i] = add_shared(at[i], added);
                sum[i] = old[i] + added;
            }
#pragma unroll
            for (int i = 0; i < 4; ++i) count_if_less(at[i] + 4 * plane, sum[i], old[i]);
        } else {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                if (!inside[i]) continue;
                const int at = slots.local[i] * window + spots[i].bin;
                const Share share = share_of(i, spots[i]);
                add_pair(low + at, high + at, share.count);
                add_pair(low + plane + at, high + plane + at, share.moved);
            }
        }
        if (!(inside[0] && inside[1] && inside[2] && inside[3])) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                if (!inside[i] && slots.local[i] >= 0) add_outside(i, x.at[i], spots[i]);
            }
        }
        slots.row += rows.advance;
    };
    for_quads<ones ? 2 : 1>(rows, span.x, span.begin, span.end, place, body);
    __syncthreads();

    // one more than there are in the window: the last bin's right neighbour
    const int wide = window + 1, total = rows.group * wide;
    const int turn = int(std::int64_t(blockIdx.x) * total / gridDim.x);  // so that blocks meet seldom
    const auto count_at = [&](int i) { return ones ? pair(low, high, i) >> kCountBit : pair(low, high, i); };
    const auto moved_at = [&](int i) {
        return ones ? pair(low, high, i) & ((std::int64_t(1) << kCountBit) - 1) : pair(low + plane, high + plane, i);
    };
    for (int j = tid; j < total; j += blockDim.x) {
        const int k = j + turn < total ? j + turn : j + turn - total, f = k / wide, bin = k % wide,
                  i = f * window + bin;
        if (feature + f >= rows.features) continue;
        std::int64_t value = 0;
        if (bin < window) value += (ones ? count_at(i) << bits : count_at(i)) - moved_at(i);
        if (bin > 0) value += moved_at(i - 1);
        add_global(task.bins + (feature + f) * row + task.window.begin + bin, value);
    }
}

template <class T>
HEPGEN_KERNEL(kConvolveThreads, 1)
density_kernel(const Axis* axes, const std::int64_t* bins, int size, int pad, int points, T* density) {
    HEPGEN_SHARED ConvolveTile tile;
    const int f = int(blockIdx.y), begin = int(blockIdx.x) * kTile, reach = int(axes[f].reach);
    const std::int64_t* at = bins + f * (std::int64_t(size) + 1);
    const double sum = convolve(tile, axes[f].ratio, reach, [&](int i) {
        const int bin = begin + pad + i;
        return bin >= 0 && bin < size ? double(at[bin]) : 0.0;
    });
    const int g = begin + int(threadIdx.x);
    if (threadIdx.x >= kTile || g >= points) return;
    const double nan = std::numeric_limits<double>::quiet_NaN();
    density[std::int64_t(f) * points + g] = T(at[size] ? nan : sum / axes[f].scale * axes[f].norm);
}

// --- the divergence, by one block

constexpr int kDivergenceThreads = 1024;

template <class T>
HEPGEN_KERNEL(kDivergenceThreads, 1)
divergence_kernel(const Axis* axes, const T* density, const double* target, double floor, int features, int points,
                  T* value, T* slope) {
    HEPGEN_SHARED double scratch[kWarp];
    double sum = 0;
    for (std::int64_t i = threadIdx.x; i < std::int64_t(features) * points; i += blockDim.x) {
        const double t = target[i], step = axes[i / points].step, given = step * double(density[i]);
        const double mass = given < floor ? floor : given;
        if (!(t == 0)) sum += t * log(t / mass);
        sum += 0 * given;  // a feature of NaN is NaN even where the target is zero
        slope[i] = T(given < floor ? 0.0 : -t * step / mass / double(features));
    }
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) *value = T(sum / double(features));
}

// --- launches

int bit_length(std::int64_t x) {
    int bits = 0;
    for (; x > 0; x >>= 1) ++bits;
    return bits;
}

}  // namespace

template <class T>
void kde_parts::make_axes(const KdeSample<T>& sample, const KdeGrid& grid, int bits, double* axes, std::int64_t* bins,
                          Stream stream) {
    const AxisTask task{grid,
                        kde_bins(grid),
                        sample.features,
                        bits,
                        double(sample.rows),
                        sample.weights ? sample.weight_sum : nullptr,
                        reinterpret_cast<Axis*>(axes),
                        bins,
                        kReach<T>};
    launch(axis_kernel<T>, Grid{unsigned(sample.features), 1, 1}, 256, 0, stream, task,
           sample.weights ? sample.weight_peak : nullptr);
}

template <class T>
void kde_binned(const KdeSample<T>& sample, const KdeGrid& grid, double* axes, std::int64_t* bins, T* density,
                Stream stream) {
    constexpr bool single = sizeof(T) == 4;
    const bool ones = single && !sample.weights, fast = is_fast<T>(grid);
    const int threads = threads_of(fast, ones);
    const Cut part =
        cut(sample, grid, ones ? 8 : 16, ones ? (1 << (kCountBit - kLeastOffsetBits)) - 1 : sample.rows, threads);
    // sums of the offsets must not reach the counts; weights: sums must fit, and upper words be seldom touched
    const int all = 61 - bit_length(sample.rows);
    const int bits = ones             ? std::min(24, kCountBit - bit_length(part.rows.chunk))
                     : single && fast ? std::min(sample.rows < kFewRows ? 30 : 28, all)
                                      : std::min(52, all);
    make_axes(sample, grid, bits, axes, bins, stream);
    const int size = int(kde_bins(grid));
    const BinTask<T> task{part.rows, part.window, sample.x, sample.weights, reinterpret_cast<const Axis*>(axes), bins,
                          size,      grid.pad,    bits};
    const auto kernel = ones ? (fast ? bin_kernel<T, single, single> : bin_kernel<T, false, single>)
                             : (fast ? bin_kernel<T, single, false> : bin_kernel<T, false, false>);
    launch(kernel, part.grid, threads, part.shared, stream, task);
    launch(density_kernel<T>, Grid{tiles(grid.points, kTile), unsigned(sample.features), 1}, kConvolveThreads, 0,
           stream, reinterpret_cast<const Axis*>(axes), bins, size, grid.pad, grid.points, density);
}

template <class T>
void kde_divergence(const KdeGrid& grid, int features, const double* axes, const T* density, const double* target,
                    double floor, T* value, T* slope, Stream stream) {
    launch(divergence_kernel<T>, Grid{}, kDivergenceThreads, 0, stream, reinterpret_cast<const Axis*>(axes), density,
           target, floor, features, grid.points, value, slope);
}

#define HEPGEN_INSTANTIATE(T)                                                                                        \
    template void kde_parts::make_axes<T>(const KdeSample<T>&, const KdeGrid&, int, double*, std::int64_t*, Stream); \
    template void kde_binned<T>(const KdeSample<T>&, const KdeGrid&, double*, std::int64_t*, T*, Stream);            \
    template void kde_divergence<T>(const KdeGrid&, int, const double*, const T*, const double*, double, T*, T*,     \
                                    Stream);
HEPGEN_INSTANTIATE(float)
HEPGEN_INSTANTIATE(double)

}  // namespace hepgen::cuda
