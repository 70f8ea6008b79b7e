#include "hepgen/mmd.hpp"

#include <algorithm>
#include <atomic>
#include <memory>
#include <vector>

#include "hepgen/packed.hpp"
#include "hepgen/parallel.hpp"

namespace hepgen {
namespace {

constexpr std::size_t kTileColumns = 512;
constexpr std::size_t kDiagonal = 128;
constexpr std::size_t kSerialPairs = 200'000;  // below this a thread costs more than it brings
constexpr std::size_t kMostBlocks = 128;

template <class T>
TileFunction<T> tile_function(int features, bool weighted, Mode mode) {
    switch (active_isa()) {
#ifdef HEPGEN_X86
        case Isa::avx512:
            return avx512::gaussian_tile(T{}, features, weighted, mode);
        case Isa::avx2:
            return avx2::gaussian_tile(T{}, features, weighted, mode);
#endif
        default:
            return baseline::gaussian_tile(T{}, features, weighted, mode);
    }
}

std::size_t block_size(std::size_t rows) {
    const std::size_t small = std::clamp<std::size_t>(round_up((rows + 7) / 8, kPad), kDiagonal, kTileColumns);
    return std::max(small, round_up((rows + kMostBlocks - 1) / kMostBlocks, kTileColumns));
}

// One sum over a kernel matrix, cut into tasks that a parallel loop takes in order.
template <class T>
class Sweep {
  public:
    Sweep(const Packed<T>& x, const Packed<T>& y, Mode mode)
        : x_(x), y_(y), symmetric_(&x == &y && (mode == Mode::value || mode == Mode::both)), mode_(mode) {
        tile_ = tile_function<T>(x.features, x.weights != nullptr, mode);
        rows_tile_ = tile_function<T>(x.features, x.weights != nullptr, mode == Mode::both ? Mode::rows : mode);
        x_block_ = block_size(x.rows);
        y_block_ = block_size(y.rows);
        x_blocks_ = (x.rows + x_block_ - 1) / x_block_;
        y_blocks_ = (y.rows + y_block_ - 1) / y_block_;
        symmetric_ ? order_symmetric() : order_rectangle();
        values_.assign(tasks_.size(), 0.0);
        const std::size_t outputs = mode == Mode::sums ? 1 : x.features + 1;
        if (mode != Mode::value) row_.assign(outputs * x.stride, 0.0);
        if (mode == Mode::both && !symmetric_) column_.assign(outputs * y.stride, 0.0);
        x_done_ = std::make_unique<std::atomic<unsigned>[]>(x_blocks_);
        y_done_ = std::make_unique<std::atomic<unsigned>[]>(y_blocks_);
        for (std::size_t i = 0; i < x_blocks_; ++i) x_done_[i] = 0;
        for (std::size_t j = 0; j < y_blocks_; ++j) y_done_[j] = 0;
    }

    std::size_t tasks() const { return tasks_.size(); }
    std::size_t pairs() const { return x_.rows * y_.rows / (symmetric_ ? 2 : 1); }

    void run(std::size_t index, T* scratch) {
        const Task& task = tasks_[index];
        std::atomic<unsigned>& rows_done = x_done_[task.i];
        std::atomic<unsigned>& columns_done = symmetric_ ? x_done_[task.j] : y_done_[task.j];
        const bool has_columns = mode_ == Mode::both && !(symmetric_ && task.i == task.j);
        if (mode_ != Mode::value) wait_until(rows_done, task.row_turn);
        if (has_columns) wait_until(columns_done, task.column_turn);
        values_[index] = symmetric_ && task.i == task.j ? diagonal(task.i, scratch) : off_diagonal(task, scratch);
        rows_done.fetch_add(1, std::memory_order_release);
        if (has_columns) columns_done.fetch_add(1, std::memory_order_release);
    }

    // sum_ij wx_i wy_j k_ij
    double total() const {
        double sum = 0;
        if (mode_ == Mode::value) {
            for (double v : values_) sum += v;
        } else {
            for (std::size_t i = 0; i < x_.rows; ++i) sum += (x_.weights ? double(x_.weights[i]) : 1.0) * row_[i];
        }
        return sum;
    }

    const double* row(int output = 0) const { return row_.data() + output * x_.stride; }
    const double* column(int output = 0) const { return column_.data() + output * y_.stride; }

  private:
    struct Task {
        std::size_t i, j;
        unsigned row_turn, column_turn;
    };

    void add_task(std::size_t i, std::size_t j, std::vector<unsigned>& rows, std::vector<unsigned>& columns) {
        const bool diagonal_task = symmetric_ && i == j;
        tasks_.push_back({i, j, rows[i], diagonal_task ? 0 : columns[j]});
        ++rows[i];
        if (!diagonal_task) ++columns[j];
    }

    // Every block meets every other once, in rounds without a common block (the circle method of tournaments).
    void order_symmetric() {
        std::vector<unsigned> turn(x_blocks_, 0);
        for (std::size_t i = 0; i < x_blocks_; ++i) add_task(i, i, turn, turn);
        const std::size_t players = x_blocks_ + x_blocks_ % 2;
        for (std::size_t round = 0; round + 1 < players; ++round) {
            for (std::size_t k = 0; k < players / 2; ++k) {
                const std::size_t a = k == 0 ? players - 1 : (round + k) % (players - 1);
                const std::size_t b = (round + players - 1 - k) % (players - 1);
                if (std::max(a, b) < x_blocks_) add_task(std::min(a, b), std::max(a, b), turn, turn);
            }
        }
    }

    // Rounds along the diagonals: in each, no two tasks share rows or columns.
    void order_rectangle() {
        std::vector<unsigned> rows(x_blocks_, 0), columns(y_blocks_, 0);
        const bool wide = y_blocks_ >= x_blocks_;
        for (std::size_t round = 0; round < std::max(x_blocks_, y_blocks_); ++round) {
            for (std::size_t k = 0; k < std::min(x_blocks_, y_blocks_); ++k) {
                const std::size_t i = wide ? k : (k + round) % x_blocks_;
                const std::size_t j = wide ? (k + round) % y_blocks_ : k;
                add_task(i, j, rows, columns);
            }
        }
    }

    double tile(TileFunction<T> function, std::size_t i, std::size_t rows, std::size_t j, std::size_t columns,
                T* scratch) {
        Tile<T> t{};
        t.x = x_.points.get() + i;
        t.y = y_.points.get() + j;
        t.x_stride = x_.stride;
        t.y_stride = y_.stride;
        t.wx = x_.weights ? x_.weights.get() + i : nullptr;
        t.wy = y_.weights ? y_.weights.get() + j : nullptr;
        t.features = x_.features;
        t.rows = int(rows);
        t.columns = int(columns);
        t.row = row_.data() + i;
        t.row_stride = x_.stride;
        t.column = (symmetric_ ? row_.data() : column_.data()) + j;
        t.column_stride = y_.stride;
        t.scratch = scratch;
        function(t);
        return t.value;
    }

    double off_diagonal(const Task& task, T* scratch) {
        const std::size_t row_end = std::min(x_.rows, (task.i + 1) * x_block_);
        const std::size_t column_end = std::min(y_.rows, (task.j + 1) * y_block_);
        double value = 0;
        for (std::size_t j = task.j * y_block_; j < column_end; j += kTileColumns) {
            const std::size_t columns = std::min(kTileColumns, column_end - j);
            for (std::size_t i = task.i * x_block_; i < row_end; i += kTileColumns) {
                value += tile(tile_, i, std::min(kTileColumns, row_end - i), j, columns, scratch);
            }
        }
        return symmetric_ ? 2 * value : value;
    }

    // A block against itself, in strips: a square on the diagonal, and what lies right of it once for both halves.
    double diagonal(std::size_t block, T* scratch) {
        const std::size_t end = std::min(x_.rows, (block + 1) * x_block_);
        double squares = 0, halves = 0;
        for (std::size_t i = block * x_block_; i < end; i += kDiagonal) {
            const std::size_t rows = std::min(kDiagonal, end - i);
            squares += tile(rows_tile_, i, rows, i, rows, scratch);
            for (std::size_t j = i + rows; j < end; j += kTileColumns) {
                halves += tile(tile_, i, rows, j, std::min(kTileColumns, end - j), scratch);
            }
        }
        return squares + 2 * halves;
    }

    const Packed<T>& x_;
    const Packed<T>& y_;
    bool symmetric_;
    Mode mode_;
    TileFunction<T> tile_, rows_tile_;
    std::size_t x_block_, y_block_, x_blocks_, y_blocks_;
    std::vector<Task> tasks_;
    std::vector<double> values_, row_, column_;
    std::unique_ptr<std::atomic<unsigned>[]> x_done_, y_done_;
};

template <class T>
void run_sweeps(const std::vector<Sweep<T>*>& sweeps, int features, int threads) {
    std::size_t tasks = 0, pairs = 0;
    for (const auto* sweep : sweeps) {
        tasks += sweep->tasks();
        pairs += sweep->pairs();
    }
    if (pairs < kSerialPairs) threads = 1;
    threads = int(std::min<std::size_t>(std::max(threads, 1), std::max<std::size_t>(tasks, 1)));
    const std::size_t scratch_each = scratch_size(features, kTileColumns);
    const auto scratch = allocate<T>(scratch_each * threads);
    std::atomic<int> arrived{0};
    // one long-lived body per thread, so that each has its own scratch
    std::atomic<std::size_t> next{0};
    parallel_tasks(threads, threads, [&](std::size_t) {
        T* mine = scratch.get() + scratch_each * arrived.fetch_add(1);
        for (std::size_t task; (task = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) {
            for (auto* sweep : sweeps) {
                if (task < sweep->tasks()) {
                    sweep->run(task, mine);
                    break;
                }
                task -= sweep->tasks();
            }
        }
    });
}

// Adds factor * gradient of the weighted kernel sum of point i, from what a sweep left for rows or columns.
template <class T>
void add_point_gradient(const Packed<T>& packed, const Frame& frame, const double* outputs, double factor,
                        std::vector<double>& gradient) {
    const std::size_t features = frame.centre.size();
    gradient.resize(packed.rows * features, 0.0);
    for (std::size_t f = 0; f < features; ++f) {
        const double* source = outputs + (1 + f) * packed.stride;
        for (std::size_t i = 0; i < packed.rows; ++i) {
            gradient[i * features + f] += factor * frame.gradient_factor[f] * source[i];
        }
    }
}

template <class T>
void store(const std::vector<double>& from, T* to) {
    std::transform(from.begin(), from.end(), to, [](double v) { return static_cast<T>(v); });
}

Mode mode_for(bool points, bool weights) {
    return points ? Mode::both : weights ? Mode::sums : Mode::value;
}

// One side's share of the gradients: `own` is that side against itself, `cross` against the other sample.
template <class T>
struct Side {
    const Packed<T>& packed;
    const Sweep<T>* own;
    const double* cross;
    double cross_total, other_weight_sum, cross_weight;
};

template <class T>
void side_gradients(const Side<T>& side, const Frame& frame, T* points, T* weights) {
    const double s = side.packed.weight_sum;
    const double cross_factor = side.cross_weight / (s * side.other_weight_sum);
    if (points) {
        std::vector<double> gradient;
        add_point_gradient(side.packed, frame, side.own->row(), 2 / (s * s), gradient);
        add_point_gradient(side.packed, frame, side.cross, -cross_factor, gradient);
        store(gradient, points);
    }
    if (weights) {
        // d/dw_i of A / s^2 - c C / (s t): 2 a_i / s^2 - 2 A / s^3 - c (c_i - C / s) / (s t)
        const double own_total = side.own->total();
        for (std::size_t i = 0; i < side.packed.rows; ++i) {
            const double own = 2 * (side.own->row()[i] - own_total / s) / (s * s);
            weights[i] = static_cast<T>(own - cross_factor * (side.cross[i] - side.cross_total / s));
        }
    }
}

}  // namespace

template <class T>
void gaussian_sums(Sample<T> x, Sample<T> y, const double* sigma, int features, int threads, KernelGradients<T> out) {
    const Frame frame = make_frame(y.rows ? y : x, sigma, features);
    const bool weighted = y.weights != nullptr;
    const Packed<T> rows(x, frame, weighted), columns(y, frame, weighted);
    Sweep<T> sweep(rows, columns, out.points ? Mode::rows : Mode::sums);
    run_sweeps<T>({&sweep}, rows.features, threads);
    for (std::size_t i = 0; i < x.rows; ++i) out.sums[i] = static_cast<T>(sweep.row()[i]);
    for (std::size_t f = 0; out.points && f < frame.centre.size(); ++f) {
        const double* source = sweep.row(int(f) + 1);
        for (std::size_t i = 0; i < x.rows; ++i) {
            out.points[i * frame.centre.size() + f] = static_cast<T>(frame.gradient_factor[f] * source[i]);
        }
    }
}

template <class T>
double kernel_mean(Sample<T> x, const double* sigma, int features, int threads) {
    const Frame frame = make_frame(x, sigma, features);
    const Packed<T> packed(x, frame, x.weights != nullptr);
    Sweep<T> sweep(packed, packed, Mode::value);
    run_sweeps<T>({&sweep}, packed.features, threads);
    return sweep.total() / (packed.weight_sum * packed.weight_sum);
}

template <class T>
double mmd2(Sample<T> x, Sample<T> y, const double* sigma, int features, double cross_weight, const double* y_mean,
            int threads, MmdGradients<T> out) {
    const Frame frame = make_frame(y, sigma, features);
    const bool weighted = x.weights || y.weights;
    const Packed<T> px(x, frame, weighted), py(y, frame, weighted);
    const bool x_side = out.x || out.wx, y_side = out.y || out.wy;
    // the cross sum gives one side's gradients by rows, both sides' only where both are wanted
    const bool turned = y_side && !x_side;
    const Packed<T>& rows = turned ? py : px;
    const Packed<T>& columns = turned ? px : py;
    const bool points = out.x || out.y;
    const Mode one_side = points ? Mode::rows : x_side || y_side ? Mode::sums : Mode::value;
    Sweep<T> cross(rows, columns, x_side && y_side ? Mode::both : one_side);
    Sweep<T> xx(px, px, mode_for(out.x, out.wx));
    std::vector<Sweep<T>*> sweeps{&cross, &xx};
    std::unique_ptr<Sweep<T>> yy;
    if (!y_mean || y_side) {
        yy = std::make_unique<Sweep<T>>(py, py, mode_for(out.y, out.wy));
        sweeps.push_back(yy.get());
    }
    run_sweeps(sweeps, px.features, threads);

    const double sx = px.weight_sum, sy = py.weight_sum, cross_total = cross.total();
    if (x_side) side_gradients<T>({px, &xx, cross.row(), cross_total, sy, cross_weight}, frame, out.x, out.wx);
    if (y_side) {
        const double* source = turned ? cross.row() : cross.column();
        side_gradients<T>({py, yy.get(), source, cross_total, sx, cross_weight}, frame, out.y, out.wy);
    }
    const double y_term = yy ? yy->total() / (sy * sy) : *y_mean;
    return xx.total() / (sx * sx) + y_term - cross_weight * cross_total / (sx * sy);
}

#define HEPGEN_INSTANTIATE(T)                                                                          \
    template void gaussian_sums<T>(Sample<T>, Sample<T>, const double*, int, int, KernelGradients<T>); \
    template double kernel_mean<T>(Sample<T>, const double*, int, int);                                \
    template double mmd2<T>(Sample<T>, Sample<T>, const double*, int, double, const double*, int, MmdGradients<T>);
HEPGEN_INSTANTIATE(float)
HEPGEN_INSTANTIATE(double)

}  // namespace hepgen
