// The gradients of the binned method: the slope of the density, convolved, is a field at every bin, and samples feel
// it.
#include "hepgen/cuda/kde_quads.hpp"

namespace hepgen::cuda {
namespace {

// The field at every bin, and its slope from there to the next.
template <class T>
HEPGEN_KERNEL(kConvolveThreads, 1)
field_kernel(const Axis* axes, const T* slope, int size, int pad, int points, T* values, T* slopes) {
    HEPGEN_SHARED ConvolveTile tile;
    HEPGEN_SHARED double field[kTile];
    const int f = int(blockIdx.y), begin = int(blockIdx.x) * (kTile - 1), reach = int(axes[f].reach);
    const T* at = slope + std::int64_t(f) * points;
    const int first = begin - pad;  // of the tile, on the grid
    double sum = 0;
    if (first + kTile > -reach && first < points + reach) {  // the same for the whole block
        sum = convolve(tile, axes[f].ratio, reach,
                       [&](int i) { return first + i >= 0 && first + i < points ? double(at[first + i]) : 0.0; });
    }
    if (threadIdx.x < kTile) field[threadIdx.x] = sum * axes[f].norm;
    __syncthreads();
    const int bin = begin + int(threadIdx.x);
    if (threadIdx.x >= kTile - 1 || bin >= size) return;
    const double value = field[threadIdx.x], next = field[threadIdx.x + 1];
    values[std::int64_t(f) * size + bin] = T(value);
    slopes[std::int64_t(f) * size + bin] = T((next - value) * axes[f].inverse);
}

// --- samples feel the field

template <class T>
struct GatherTask {
    Rows rows;
    Window window;
    const T *x, *weights;
    const Axis* axes;
    const T *values, *slopes;
    KdeGradients<T> out;
    int size, pad;
};

template <class T>
HEPGEN_FN void store_quad(T* to, int quad, int from, int end, const Slots& slots, const T (&x)[4]) {
    const std::int64_t e = 4 * std::int64_t(quad);
    const bool all = slots.local[0] >= 0 && slots.local[1] >= 0 && slots.local[2] >= 0 && slots.local[3] >= 0;
    if (misaligned(to) == 0 && all && end - from == 4) return store_whole(to + e, x);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        if (slots.local[i] >= 0 && i >= from && i < end) to[e + i] = x[i];
    }
}

template <class T, bool fast, bool with_values>
HEPGEN_KERNEL(threads_of(fast, !with_values), 1)
gather_kernel(GatherTask<T> task) {
    const Rows& rows = task.rows;
    const int window = task.window.count, words = rows.group * window, feature = int(blockIdx.y) * rows.group;
    const int plane = words + 1;  // a spare zero for what is outside the window
    T* const slopes = shared_memory<T>();
    T* const values = slopes + plane;
    for (int i = int(threadIdx.x); i < plane; i += blockDim.x) {
        const int f = feature + i / window, bin = i % window + task.window.begin;
        const bool there = i < words && f < rows.features;
        const std::int64_t from = std::int64_t(f) * task.size + bin;
        slopes[i] = there ? task.slopes[from] : T(0);
        if (with_values) values[i] = there ? task.values[from] : T(0);
    }
    __syncthreads();

    const Span<T> span(rows, task.x);
    const double to = double(task.pad - task.window.begin);
    Slots slots;
    SharedAddress base[4];
    const auto place = [&](int quad) {
        slots.template place<fast>(rows, task.axes, 4 * quad - span.begin, to, 0.0);
#pragma unroll
        for (int i = 0; i < 4; ++i) base[i] = shared_address(slopes) + int(sizeof(T)) * slots.local[i] * window;
    };
    const std::int64_t moved = span.first * rows.features - span.begin;
    const auto body = [&](int quad, const Quad<T>& x, int from, int end) {
        const SharedAddress spare = shared_address(slopes + words);
        T gx[4], value[4] = {};
        Spot spots[4];
        bool inside[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            spots[i] = locate<fast>(x.at[i], slots.inverse[i], slots.shift[i], to);
            inside[i] = unsigned(spots[i].bin) < unsigned(window);
            const SharedAddress at = inside[i] ? base[i] + int(sizeof(T)) * spots[i].bin : spare;
            gx[i] = load_shared<T>(at);
            if (with_values) value[i] = load_shared<T>(at + int(sizeof(T)) * plane);
        }
        if (!(inside[0] && inside[1] && inside[2] && inside[3])) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                if (inside[i] || slots.local[i] < 0) continue;
                const std::int64_t bin = std::int64_t(spots[i].bin) + task.window.begin;
                if (bin >= 0 && bin < task.size - 1) {
                    const std::int64_t at = std::int64_t(feature + slots.local[i]) * task.size + bin;
                    gx[i] = task.slopes[at];
                    if (with_values) value[i] = task.values[at];
                }
                if (x.at[i] != x.at[i]) gx[i] = value[i] = x.at[i];
            }
        }
        if (with_values) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const double t = fast ? double(spots[i].offset) * 0x1p-32 : spots[i].t;
                const double rise = gx[i] == 0 ? 0.0 : t / slots.inverse[i] * double(gx[i]);
                value[i] = T(double(value[i]) + rise);
            }
            store_quad(task.out.values + moved, quad, from, end, slots, value);
        }
        if (task.weights) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                if (i >= from && i < end) gx[i] *= task.weights[span.first + slots.row + slots.more[i]];
            }
        }
        if (task.out.x) store_quad(task.out.x + moved, quad, from, end, slots, gx);
        slots.row += rows.advance;
    };
    for_quads<with_values ? 1 : 2>(rows, span.x, span.begin, span.end, place, body);
}

}  // namespace

template <class T>
void kde_binned_gradients(const KdeSample<T>& sample, const KdeGrid& grid, const T* slope, double* axes, T* tables,
                          KdeGradients<T> out, Stream stream) {
    const int size = int(kde_bins(grid));
    const Axis* at = reinterpret_cast<const Axis*>(axes);
    T *const values = tables, *const slopes = tables + std::int64_t(sample.features) * size;
    make_axes(sample, grid, 0, axes, nullptr, stream);
    launch(field_kernel<T>, Grid{tiles(size, kTile - 1), unsigned(sample.features), 1}, kConvolveThreads, 0, stream, at,
           slope, size, grid.pad, grid.points, values, slopes);
    constexpr bool single = sizeof(T) == 4;
    const bool fast = is_fast<T>(grid);
    const int threads = threads_of(fast, !out.values);
    const Cut part = cut(sample, grid, int(sizeof(T)) * (out.values ? 2 : 1), sample.rows, threads);
    const GatherTask<T> task{part.rows, part.window, sample.x, sample.weights, at, values, slopes, out, size, grid.pad};
    const auto kernel = fast ? (out.values ? gather_kernel<T, single, true> : gather_kernel<T, single, false>)
                             : (out.values ? gather_kernel<T, false, true> : gather_kernel<T, false, false>);
    launch(kernel, part.grid, threads, part.shared, stream, task);
}

#define HEPGEN_INSTANTIATE(T)                                                                                          \
    template void kde_binned_gradients<T>(const KdeSample<T>&, const KdeGrid&, const T*, double*, T*, KdeGradients<T>, \
                                          Stream);
HEPGEN_INSTANTIATE(float)
HEPGEN_INSTANTIATE(double)

}  // namespace hepgen::cuda
