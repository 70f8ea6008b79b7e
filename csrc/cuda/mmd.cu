// What surrounds the sweeps: samples are packed, sums over blocks are put together in a fixed order, and become values
// and gradients.
#include <limits>

#include "hepgen/cuda/mmd.hpp"
#include "hepgen/cuda/mmd_sweep.hpp"

namespace hepgen::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kTotalThreads = 256;
constexpr int kMostPartialSums = 1 << 25;  // of one sweep, in a workspace
constexpr double kTilesToBegin = 0.5;      // what a block does besides, in the time of a tile
constexpr double kLog2E = 1.4426950408889634, kLn2 = 0.6931471805599453;

unsigned blocks_for(std::int64_t count, int threads) {
    return unsigned((count + threads - 1) / threads);
}

HEPGEN_FN double scale_of(double sigma) {
    return sqrt(kLog2E / sigma);
}
// dk/dx_f = factor k (y_f - x_f) in scaled coordinates
HEPGEN_FN double gradient_factor(double sigma) {
    return 2 * kLn2 * scale_of(sigma);
}

HEPGEN_FN bool used(const MmdKernel& kernel, int part) {
    return !kernel.counts || kernel.counts[part] > 0;
}

// --- packing

template <class T>
HEPGEN_KERNEL(kThreads, 8)
pack_kernel(MmdSample<T> sample, MmdKernel kernel, PackedPoints<T> to, int features, int width) {
    const int i = int(blockIdx.x) * kThreads + int(threadIdx.x), part = int(blockIdx.y);
    if (i >= to.stride) return;
    const bool real = i < to.rows;
    const std::size_t row = i;
    // by rows where there is a width
    T* const first = to.points + (width ? (std::size_t(part) * to.stride + i) * width
                                        : std::size_t(part) * (features + 1) * to.stride + i);
    const std::size_t step = width ? 1 : to.stride;
    const int last = width ? width - 1 : features;
    for (int f = 0; f < last; ++f) {
        const int column = kernel.per_feature ? part : f;
        const bool given = real && f < features;
        if (given) {
            const double centre = kernel.centre[column];
            const double x =
                double(sample.points[row * kernel.features + column]) - (centre - centre == 0 ? centre : 0);
            first[f * step] = T(x * scale_of(kernel.sigma[part * features + f]));
        } else {
            first[f * step] = 0;
        }
    }
    first[last * step] = !real ? T(0) : sample.weights ? sample.weights[row] : T(1);
}

// A warp for each box. One with a point or weight that is not finite has no bounds: it is never far from anything.
template <class T>
HEPGEN_KERNEL(kThreads, 8)
box_kernel(PackedPoints<T> packed, int features, int width) {
    constexpr T infinity = std::numeric_limits<T>::infinity();
    const int boxes = packed.stride / kSweepTile, box = int(blockIdx.x) * (kThreads / kWarp) + warp(),
              part = int(blockIdx.y);
    if (box >= boxes) return;
    T* const to = packed.boxes + (std::size_t(part) * boxes + box) * 2 * features;
    bool finite = true;
    for (int f = 0; f <= features; ++f) {
        T low = infinity, high = -infinity;
        for (int i = box * kSweepTile + lane(); i < (box + 1) * kSweepTile && i < packed.rows; i += kWarp) {
            const T x = packed.points[(std::size_t(part) * packed.stride + i) * width + (f < features ? f : width - 1)];
            finite = finite && x - x == 0;
            low = x < low ? x : low;
            high = x > high ? x : high;
        }
        low = -warp_max(-low);
        high = warp_max(high);
        if (lane() == 0 && f < features) to[f] = low, to[features + f] = high;
    }
    if (__all_sync(kFullMask, finite)) return;
    for (int f = lane(); f < features; f += kWarp) to[f] = -infinity, to[features + f] = infinity;
}

// --- sums over what blocks left

// The rows' sums over the splits, left in the first; values: (parts, blocks) of the rows' sums times their weights.
template <class T>
HEPGEN_KERNEL(kThreads, 8)
reduce_kernel(Sweep<T> sweep, int width, double* values) {
    HEPGEN_SHARED double scratch[kWarp];
    const int i = int(blockIdx.x) * kThreads + int(threadIdx.x), part = int(blockIdx.y), outputs = sweep.outputs();
    const std::size_t stride = sweep.rows.stride;
    double* const out = sweep.out + std::size_t(part) * sweep.splits * outputs * stride + i;
    double first = 0;
    if (i < sweep.rows.rows) {
        for (int o = 0; o < outputs; ++o) {
            double sum = 0;
            for (int s = 0; s < sweep.splits; ++s) sum += out[(std::size_t(s) * outputs + o) * stride];
            out[o * stride] = sum;
            if (o == 0) first = sum;
        }
        const std::size_t weight = width ? (part * stride + i) * width + width - 1
                                         : (std::size_t(part) * (sweep.features + 1) + sweep.features) * stride + i;
        first *= double(sweep.rows.points[weight]);
    }
    const double total = block_sum(first, scratch);
    if (threadIdx.x == 0) values[std::size_t(part) * gridDim.x + blockIdx.x] = total;
}

// Numbers that make up a total: (parts, count).
struct Summands {
    const double* values;
    int count;
};

HEPGEN_FN double total_of(Summands of, int part, double* scratch) {
    double sum = 0;
    for (int i = int(threadIdx.x); i < of.count; i += kTotalThreads) sum += of.values[std::size_t(part) * of.count + i];
    return block_sum(sum, scratch);
}

struct Weighing {
    const double *x_sum, *y_sum;  // null: as many as there are rows
    double n, m;
    double cross_weight, share;

    HEPGEN_HD double x() const { return x_sum ? *x_sum : n; }
    HEPGEN_HD double y() const { return y_sum ? *y_sum : m; }
};

// totals: (3, parts) of x-x, y-y and x-y
template <class T>
HEPGEN_KERNEL(kTotalThreads, 1)
value_kernel(Summands xx, Summands yy, Summands xy, int parts, Weighing by, const double* y_mean, double* totals,
             T* value, double* constant) {
    HEPGEN_SHARED double scratch[kWarp];
    const double sx = by.x(), sy = by.y();
    double sum = 0;
    for (int p = 0; p < parts; ++p) {
        const double own = total_of(xx, p, scratch), other = total_of(yy, p, scratch), cross = total_of(xy, p, scratch);
        sum += own / (sx * sx);
        if (yy.count) sum += other / (sy * sy);
        if (xy.count) sum -= by.cross_weight * cross / (sx * sy);
        if (threadIdx.x == 0) totals[p] = own, totals[parts + p] = other, totals[2 * parts + p] = cross;
    }
    if (threadIdx.x > 0) return;
    sum = by.share * sum + (y_mean ? *y_mean : 0.0);
    if (value) *value = T(sum);
    if (constant) *constant = sum;
}

// --- gradients

// The sums of one part's rows, (outputs, stride).
struct RowSums {
    const double* out;
    std::size_t part, stride;

    HEPGEN_HD double operator()(int p, int output, int i) const { return out[p * part + output * stride + i]; }
};

template <class T>
RowSums row_sums(const Sweep<T>& sweep) {
    const std::size_t stride = sweep.rows.stride;
    return {sweep.out, sweep.splits * sweep.outputs() * stride, stride};
}

// d/dx_i = own 2 w_i / s^2 - cross c w_i / (s t), and
// d/dw_i of A / s^2 - c C / (s t): 2 a_i / s^2 - 2 A / s^3 - c (c_i - C / s) / (s t)
template <class T>
HEPGEN_KERNEL(kThreads, 8)
gradient_kernel(MmdSample<T> sample, MmdKernel kernel, RowSums own, RowSums cross, const double* own_totals,
                const double* cross_totals, Weighing by, bool of_y, T* points, T* weights) {
    const int i = int(blockIdx.x) * kThreads + int(threadIdx.x);
    if (i >= sample.rows) return;
    const std::size_t row = i;
    const double s = of_y ? by.y() : by.x(), cross_factor = by.cross_weight / (by.x() * by.y());
    const double w = sample.weights ? double(sample.weights[row]) : 1.0;
    const int features = kernel.per_feature ? 1 : kernel.features;
    for (int column = 0; points && column < kernel.features; ++column) {
        const int first = kernel.per_feature ? column : 0, last = kernel.per_feature ? column + 1 : kernel.parts;
        const int f = kernel.per_feature ? 0 : column;
        double sum = 0;
        for (int p = first; p < last; ++p) {
            if (!used(kernel, p)) continue;
            const double slope = own(p, 1 + f, i) * 2 / (s * s) - cross(p, 1 + f, i) * cross_factor;
            sum += gradient_factor(kernel.sigma[p * features + f]) * slope;
        }
        points[row * kernel.features + column] = T(by.share * w * sum);
    }
    double sum = 0;
    for (int p = 0; weights && p < kernel.parts; ++p) {
        if (!used(kernel, p)) continue;
        sum += 2 * (own(p, 0, i) - own_totals[p] / s) / (s * s) - cross_factor * (cross(p, 0, i) - cross_totals[p] / s);
    }
    if (weights) weights[row] = T(by.share * sum);
}

template <class T>
HEPGEN_KERNEL(kThreads, 8)
sums_kernel(MmdSample<T> sample, MmdKernel kernel, RowSums of, double share, T* sums, T* points) {
    const int i = int(blockIdx.x) * kThreads + int(threadIdx.x);
    if (i >= sample.rows) return;
    const std::size_t row = i;
    for (int f = -1; f < (points ? kernel.features : 0); ++f) {
        double sum = 0;
        for (int p = 0; p < kernel.parts; ++p) {
            const double factor = f < 0 ? 1.0 : gradient_factor(kernel.sigma[p * kernel.features + f]);
            if (used(kernel, p)) sum += factor * of(p, 1 + f, i);
        }
        (f < 0 ? sums[row] : points[row * kernel.features + f]) = T(share * sum);
    }
}

// --- the order of it all

// Hands out what a workspace holds; without one it only counts.
class Workspace {
  public:
    explicit Workspace(void* base) : base_(static_cast<std::byte*>(base)) {}

    template <class U>
    U* take(std::size_t count) {
        const std::size_t begin = (used_ + 255) / 256 * 256;
        used_ = begin + count * sizeof(U);
        return base_ ? reinterpret_cast<U*>(base_ + begin) : nullptr;
    }
    std::size_t used() const { return used_; }

  private:
    std::byte* base_;
    std::size_t used_ = 0;
};

// Takes from a workspace, and launches where there is one.
template <class T>
class Sums {
  public:
    Sums(const MmdKernel& kernel, void* workspace, Stream stream)
        : kernel_(kernel),
          features_(kernel.per_feature ? 1 : kernel.features),
          width_(made_for<T>(features_) ? packed_width(features_) : 0),
          multiprocessors_(sm_count()),
          workspace_(workspace),
          running_(workspace != nullptr),
          stream_(stream) {}

    std::size_t used() const { return workspace_.used(); }
    double share() const { return 1.0 / (double(kernel_.gaussians) * (kernel_.per_feature ? kernel_.features : 1)); }
    template <class U>
    U* take(std::size_t count) {
        return workspace_.template take<U>(count);
    }
    template <class... P, class... A>
    void run(void (*kernel)(P...), Grid grid, int threads, A... arguments) {
        if (running_) launch(kernel, grid, unsigned(threads), 0, stream_, arguments...);
    }

    PackedPoints<T> pack(const MmdSample<T>& sample) {
        const int rows = int(sample.rows), stride = (rows + kSweepPad - 1) / kSweepPad * kSweepPad;
        const std::size_t points = std::size_t(kernel_.parts) * stride;
        PackedPoints<T> to{take<T>(points * (width_ ? width_ : features_ + 1)), nullptr, rows, stride};
        run(pack_kernel<T>, {blocks_for(stride, kThreads), unsigned(kernel_.parts)}, kThreads, sample, kernel_, to,
            features_, width_);
        if (kernel_.boxes && width_) {
            to.boxes = take<T>(points / kSweepTile * 2 * features_);
            const Grid grid{blocks_for(stride / kSweepTile, kThreads / kWarp), unsigned(kernel_.parts)};
            run(box_kernel<T>, grid, kThreads, to, features_, width_);
        }
        return to;
    }

    Sweep<T> sweep(const PackedPoints<T>& rows, const PackedPoints<T>& columns, SumMode mode, bool own) {
        Sweep<T> s{};
        s.rows = rows;
        s.columns = columns;
        s.ratios = kernel_.ratios;
        s.counts = kernel_.counts;
        s.parts = kernel_.parts;
        s.gaussians = kernel_.gaussians;
        s.features = features_;
        s.mode = mode;
        s.symmetric = own && mode == SumMode::value;
        const int block = sweep_rows<T>(features_, mode), tiles = int(blocks_for(columns.rows, kSweepTile));
        s.row_blocks = int(blocks_for(rows.rows, block));
        const std::int64_t outputs = mode == SumMode::value ? 1 : std::int64_t(s.outputs()) * rows.stride * s.parts;
        s.splits = splits(s.row_blocks * s.parts, tiles, outputs);
        const std::size_t slices = std::size_t(kernel_.parts) * s.splits;
        if (mode == SumMode::value) {
            s.values = take<double>(slices * s.row_blocks);
        } else {
            s.out = take<double>(slices * s.outputs() * rows.stride);
        }
        if (running_) run_sweep(s, stream_);
        return s;
    }

    // Puts together what the splits of a sweep made.
    Summands reduce(const Sweep<T>& s) {
        if (s.mode == SumMode::value) return {s.values, s.splits * s.row_blocks};
        const unsigned blocks = blocks_for(s.rows.rows, kThreads);
        double* const values = take<double>(std::size_t(kernel_.parts) * blocks);
        run(reduce_kernel<T>, {blocks, unsigned(kernel_.parts)}, kThreads, s, width_, values);
        return {values, int(blocks)};
    }

  private:
    // Into how many ranges of columns, so that all blocks together take the least time: rounds on the multiprocessors
    // times tiles in a range, and what it costs to begin and to write out.
    int splits(int blocks, int tiles, std::int64_t outputs) const {
        const std::int64_t at_once = std::int64_t(kSweepBlocks) * multiprocessors_;
        const std::int64_t room = std::max<std::int64_t>(kMostPartialSums / outputs, 1);
        const std::int64_t most = std::min<std::int64_t>({tiles, room, 16 * at_once / std::max(blocks, 1) + 1});
        int best = 1;
        double least = std::numeric_limits<double>::infinity();
        for (int splits = 1; splits <= most; ++splits) {
            const int each = (tiles + splits - 1) / splits, used = (tiles + each - 1) / each;
            const double time = double((used * std::int64_t(blocks) + at_once - 1) / at_once) * (each + kTilesToBegin);
            if (time < least) least = time, best = splits;
        }
        return best;
    }

    MmdKernel kernel_;
    int features_, width_, multiprocessors_;
    Workspace workspace_;
    bool running_;
    Stream stream_;
};

SumMode mode_for(bool points, bool weights) {
    return points ? SumMode::gradients : weights ? SumMode::sums : SumMode::value;
}

}  // namespace

template <class T>
std::size_t mmd2(const MmdTask<T>& task, void* workspace, Stream stream) {
    const MmdResults<T>& out = task.out;
    const bool x_side = out.x || out.wx, y_side = out.y || out.wy, two = task.y.rows > 0;
    const int parts = task.kernel.parts;
    Sums<T> sums(task.kernel, workspace, stream);
    const PackedPoints<T> x = sums.pack(task.x), y = sums.pack(task.y);
    const SumMode x_mode = mode_for(out.x, out.wx), y_mode = mode_for(out.y, out.wy);
    const Sweep<T> xx = sums.sweep(x, x, x_mode, true);
    const Summands xx_sum = sums.reduce(xx);
    Sweep<T> yy{}, xy{}, yx{};
    Summands yy_sum{}, xy_sum{};
    if (two && (!task.y_mean || y_side)) yy_sum = sums.reduce(yy = sums.sweep(y, y, y_mode, true));
    if (two && (x_side || !y_side)) xy_sum = sums.reduce(xy = sums.sweep(x, y, x_mode, false));
    if (y_side) {
        const Summands yx_sum = sums.reduce(yx = sums.sweep(y, x, y_mode, false));
        if (!x_side) xy_sum = yx_sum;
    }
    double* const totals = sums.template take<double>(3 * std::size_t(parts));
    const Weighing by{task.x.weight_sum,   task.y.weight_sum, double(task.x.rows),
                      double(task.y.rows), task.cross_weight, sums.share()};
    sums.run(value_kernel<T>, {1}, kTotalThreads, xx_sum, yy_sum, xy_sum, parts, by, y_side ? nullptr : task.y_mean,
             totals, out.value, out.constant);
    if (x_side) {
        sums.run(gradient_kernel<T>, {blocks_for(task.x.rows, kThreads)}, kThreads, task.x, task.kernel, row_sums(xx),
                 row_sums(xy), totals, totals + 2 * parts, by, false, out.x, out.wx);
    }
    if (y_side) {
        sums.run(gradient_kernel<T>, {blocks_for(task.y.rows, kThreads)}, kThreads, task.y, task.kernel, row_sums(yy),
                 row_sums(yx), totals + parts, totals + 2 * parts, by, true, out.y, out.wy);
    }
    return sums.used();
}

template <class T>
std::size_t gaussian_sums(const GaussianSumsTask<T>& task, void* workspace, Stream stream) {
    Sums<T> sums(task.kernel, workspace, stream);
    const PackedPoints<T> x = sums.pack(task.x), y = sums.pack(task.y);
    const Sweep<T> sweep = sums.sweep(x, y, mode_for(task.points, true), false);
    sums.reduce(sweep);
    sums.run(sums_kernel<T>, {blocks_for(task.x.rows, kThreads)}, kThreads, task.x, task.kernel, row_sums(sweep),
             sums.share(), task.sums, task.points);
    return sums.used();
}

#define HEPGEN_INSTANTIATE(T)                                       \
    template std::size_t mmd2<T>(const MmdTask<T>&, void*, Stream); \
    template std::size_t gaussian_sums<T>(const GaussianSumsTask<T>&, void*, Stream);
HEPGEN_INSTANTIATE(float)
HEPGEN_INSTANTIATE(double)

}  // namespace hepgen::cuda
