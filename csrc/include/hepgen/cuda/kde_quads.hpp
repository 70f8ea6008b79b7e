// What the binned method's kernels share: axes, samples as quads, convolutions, and how the work is cut.
#pragma once

#include <algorithm>
#include <limits>
#include <numeric>

#include "hepgen/cuda/device.hpp"
#include "hepgen/cuda/extra_kde.hpp"
#include "hepgen/cuda/kde.hpp"

namespace hepgen::cuda::kde_parts {

inline constexpr int kTile = 64, kParts = 4,
                     kTaps = 256;  // outputs of a convolution's block, threads of each, taps at a time
inline constexpr int kMostFastBins = 1 << 18;
inline constexpr std::int64_t kLeastRows = 512;  // of a block
// 1.5 * 2^20: added to a position, leaves its integer in the high word and 32 bits below
inline constexpr double kMagic = 1572864.0;
inline constexpr std::int32_t kMagicHigh = 0x41380000;

// Threads of a block: as many as have the registers.
constexpr int threads_of(bool fast, bool lean) {
    return fast ? (lean ? 1024 : 768) : 512;
}

struct Axis {
    double origin, inverse, step, ratio;  // inverse: 1 / step; ratio: step / bandwidth
    double reach, norm, scale, unused;    // norm: 1 / (sum of weights * b * sqrt(2 pi)); scale: of the bins
};
static_assert(sizeof(Axis) == kAxisNumbers * sizeof(double));

// bits: of the bins' scale; bins: made zero where not null
template <class T>
void make_axes(const KdeSample<T>& sample, const KdeGrid& grid, int bits, double* axes, std::int64_t* bins,
               Stream stream);

// --- samples as quads: four numbers of the flat (rows, features) array, aligned to 16 bytes

template <class T>
struct Quad {
    T at[4];
};

struct Rows {
    std::int64_t rows, chunk;  // chunk: rows of a block
    int features, group;       // group: features of a block
    int step, advance;         // quads between those of a thread, and rows where `fixed`
    bool fixed;                // a thread's features never change: its quads are whole rows apart
};

template <class T>
HEPGEN_FN int misaligned(const T* x) {
    return int((reinterpret_cast<std::uintptr_t>(x) / sizeof(T)) & 3);
}

template <class T>
HEPGEN_FN Quad<T> load_quad(const T* x, int quad) {
    const T* const at = x + 4 * std::int64_t(quad);
    if constexpr (sizeof(T) == 4) {
        const float4 v = __ldg(reinterpret_cast<const float4*>(at));
        return {{v.x, v.y, v.z, v.w}};
    } else {
        const double2 v = __ldg(reinterpret_cast<const double2*>(at)),
                      w = __ldg(reinterpret_cast<const double2*>(at + 2));
        return {{v.x, v.y, w.x, w.y}};
    }
}

// Calls body(quad, numbers, from, to) for the quads of the elements begin ... end of x, which is aligned; begin < 4. Of
// a quad the elements from ... to are in the range; infinity, which is in no bin, stands for the others. A thread's
// quads come in order, kAhead of them loaded before they are needed; place(quad) comes before its first, and before
// every one where features change.
template <int kAhead, class T, class Place, class Body>
HEPGEN_FN void for_quads(const Rows& rows, const T* x, int begin, int end, Place place, Body body) {
    const int first = (begin + 3) / 4, last = end / 4, tid = int(threadIdx.x);
    int quad = first + tid;
    if (tid < rows.step && quad < last) {
        Quad<T> next[kAhead];
#pragma unroll
        for (int u = 0; u < kAhead; ++u) {
            if (quad + u * rows.step < last) next[u] = load_quad(x, quad + u * rows.step);
        }
        place(quad);
        while (quad < last) {
            Quad<T> now[kAhead];
#pragma unroll
            for (int u = 0; u < kAhead; ++u) {
                now[u] = next[u];
                const int later = quad + (kAhead + u) * rows.step;
                if (later < last) next[u] = load_quad(x, later);
            }
#pragma unroll
            for (int u = 0; u < kAhead; ++u) {
                if (quad < last) {
                    if (!rows.fixed) place(quad);
                    body(quad, now[u], 0, 4);
                }
                quad += rows.step;
            }
        }
    }
    const int from = tid == 0 ? begin : 0, to = tid == 0 ? (end < 4 ? end : 4) : end % 4;
    const bool ends = tid == 0 ? begin > 0 : tid == 1 && to > 0 && last >= first;
    if (!ends) return;
    quad = tid == 0 ? 0 : last;
    Quad<T> part;
    for (int i = 0; i < 4; ++i)
        part.at[i] = i >= from && i < to ? x[4 * std::int64_t(quad) + i] : std::numeric_limits<T>::infinity();
    place(quad);
    body(quad, part, from, to);
}

// Bins that a block has in shared memory: `count` from `begin` on, of every feature of its group.
struct Window {
    int begin, count;
};

// The rows of a block, as elements begin ... end of `x`, which is aligned.
template <class T>
struct Span {
    std::int64_t first;  // row
    int begin, end;
    const T* x;

    HEPGEN_FN Span(const Rows& rows, const T* samples) {
        first = std::int64_t(blockIdx.x) * rows.chunk;
        const std::int64_t left = rows.rows - first;
        const T* const at = samples + first * rows.features;
        begin = misaligned(at);
        end = begin + int(left < rows.chunk ? left : rows.chunk) * rows.features;
        x = at - begin;
    }
};

// Where the numbers of a thread's quads belong.
struct Slots {
    double inverse[4], shift[4];
    int local[4];  // feature in the group, -1 for none
    int row,
        more[4];  // of the first number, from the span's first row on, and how many further those of the others are

    // The element counts from the span's first row on. to: what is added to positions; half: half a unit of the offset,
    // which rounds it. What belongs to no feature of the group has no position.
    template <bool fast>
    HEPGEN_FN void place(const Rows& rows, const Axis* axes, int element, double to, double half) {
        const int first = int(blockIdx.y) * rows.group, ahead = element + 4 * rows.features;
        int f = ahead % rows.features, later = 0;
        row = ahead / rows.features - 4;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const bool mine = f >= first && f < first + rows.group;
            local[i] = mine ? f - first : -1;
            inverse[i] = mine ? axes[f].inverse : std::numeric_limits<double>::quiet_NaN();
            shift[i] = fast ? fma(-axes[f].origin, axes[f].inverse, to) + half + kMagic : axes[f].origin;
            more[i] = later;
            if (++f == rows.features) {
                f = 0;
                ++later;
            }
        }
    }
};

struct Spot {
    int bin;          // in the window
    unsigned offset;  // t * 2^32, where fast
    double t;
};

// bin 2^31 - 1 for what is far away, and for NaN
template <bool fast, class T>
HEPGEN_FN Spot locate(T x, double inverse, double shift, double to) {
    Spot spot{};
    if constexpr (fast) {
        const long long bits = __double_as_longlong(fma(double(x), inverse, shift));
        spot.bin = int(unsigned(bits >> 32) - unsigned(kMagicHigh));
        spot.offset = unsigned(bits);
    } else {
        const double p = fma(double(x) - shift, inverse, to), left = floor(p);
        const bool near = left > -1e9 && left < 1e9;
        spot.bin = near ? int(left) : 0x7FFFFFFF;
        spot.t = near ? p - left : 0.0;
    }
    return spot;
}

// --- convolutions: blocks of kTile outputs, kParts threads each

inline constexpr int kConvolveThreads = kTile * kParts;

struct ConvolveTile {
    double in[kTile + kTaps], taps[kTaps], sums[kParts][kTile];
};

// Output o of the tile: sum over |j| <= reach of exp(-(j ratio)^2 / 2) load(o + j). All threads of the block call it.
template <class Load>
HEPGEN_FN double convolve(ConvolveTile& tile, double ratio, int reach, Load load) {
    const int tid = int(threadIdx.x), o = tid % kTile, part = tid / kTile;
    double sum = 0;
    for (int first = -reach; first <= reach; first += kTaps) {
        for (int i = tid; i < kTile + kTaps; i += kConvolveThreads) tile.in[i] = load(i + first);
        for (int i = tid; i < kTaps; i += kConvolveThreads) {
            const double d = double(first + i) * ratio;
            tile.taps[i] = first + i <= reach ? exp(-0.5 * d * d) : 0.0;
        }
        __syncthreads();
        const int left = reach - first + 1, count = left < kTaps ? left : kTaps;
        for (int i = part; i < count; i += kParts) sum = fma(tile.taps[i], tile.in[o + i], sum);
        __syncthreads();
    }
    tile.sums[part][o] = sum;
    __syncthreads();
    return (tile.sums[0][o] + tile.sums[1][o]) + (tile.sums[2][o] + tile.sums[3][o]);
}

// --- launches

// How the work is cut: features into groups whose windows fit, `bytes` a bin, and rows into chunks.
struct Cut {
    Rows rows;
    Window window;
    Grid grid;
    std::size_t shared;
};

template <class T>
Cut cut(const KdeSample<T>& sample, const KdeGrid& grid, int bytes, std::int64_t most_rows, int threads) {
    most_rows =
        std::min<std::int64_t>(most_rows, (1 << 30) / sample.features);  // elements of a block are counted in an int
    const std::int64_t size = kde_bins(grid), bins = std::int64_t(shared_limit() - 1024) / bytes;
    const std::int64_t margin = std::min<std::int64_t>(grid.pad, 64 + grid.points / 4);
    const int window = int(std::min({std::int64_t(grid.points) + 2 * margin, bins, size - 1}));
    const int features = sample.features;
    const int group = int(std::min<std::int64_t>(features, bins / window)), groups = (features + group - 1) / group;
    const int period = features / std::gcd(features, 4);
    const bool fixed = period <= threads;
    const int step = fixed ? threads / period * period : threads;
    const std::int64_t blocks = std::max(1, sm_count() / groups);
    std::int64_t chunks = std::max<std::int64_t>(1, std::min(blocks, sample.rows / kLeastRows));
    const std::int64_t waves = (sample.rows + chunks * most_rows - 1) / (chunks * most_rows);
    chunks *= waves;
    const std::int64_t chunk = (sample.rows + chunks - 1) / chunks;
    Cut to{};
    to.rows = {sample.rows, chunk, features, group, step, 4 * step / features, fixed};
    to.window = {grid.pad - int(std::min<std::int64_t>(grid.pad, (window - std::min(window, grid.points)) / 2)),
                 window};
    to.grid = {unsigned((sample.rows + chunk - 1) / chunk), unsigned(groups), 1};
    to.shared = std::size_t(group * window + 1) * bytes;
    return to;
}

// Whether positions are made in the fast way.
template <class T>
bool is_fast(const KdeGrid& grid) {
    return sizeof(T) == 4 && kde_bins(grid) <= kMostFastBins;
}

inline unsigned tiles(std::int64_t count, int tile) {
    return unsigned((count + tile - 1) / tile);
}

}  // namespace hepgen::cuda::kde_parts

namespace hepgen::cuda {
using namespace kde_parts;
}
