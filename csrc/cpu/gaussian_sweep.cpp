#include "hepgen/gaussian_sweep.hpp"

#include <algorithm>

#include "hepgen/parallel.hpp"

namespace hepgen {
namespace {

constexpr std::size_t kTileColumns = 512;
constexpr std::size_t kDiagonal = 128;
constexpr std::size_t kSerialPairs = 200'000;  // below this a thread costs more than it brings
constexpr std::size_t kMostBlocks = 128;

template <class T>
TileFunction<T> tile_function(TileKind kind) {
    return HEPGEN_ACTIVE(gaussian_tile(T{}, kind));
}

std::size_t block_size(std::size_t rows) {
    const std::size_t small = std::clamp<std::size_t>(round_up((rows + 7) / 8, kGroup), kDiagonal, kTileColumns);
    return std::max(small, round_up((rows + kMostBlocks - 1) / kMostBlocks, kTileColumns));
}

std::unique_ptr<std::atomic<unsigned>[]> counters(std::size_t count) {
    return std::unique_ptr<std::atomic<unsigned>[]>(new std::atomic<unsigned>[count]());
}

}  // namespace

template <class T>
Sweep<T>::Sweep(const Packed<T>& x, const Packed<T>& y, const std::vector<T>& scales, Mode mode)
    : x_(x),
      y_(y),
      scales_(scales),
      symmetric_(&x == &y && (mode == Mode::value || mode == Mode::both)),
      grouped_(!x.order.empty() && !y.order.empty()),
      mode_(mode) {
    TileKind kind{x.features, x.weights != nullptr, scales.size() > 1, mode};
    tile_ = tile_function<T>(kind);
    if (mode == Mode::both) kind.mode = Mode::rows;
    square_tile_ = tile_function<T>(kind);
    x_block_ = block_size(x.rows);
    y_block_ = block_size(y.rows);
    x_blocks_ = (x.rows + x_block_ - 1) / x_block_;
    y_blocks_ = (y.rows + y_block_ - 1) / y_block_;
    if (grouped_) {
        x_groups_ = x.boxes(kGroup);
        y_groups_ = y.boxes(kGroup);
        x_block_boxes_ = x.boxes(x_block_);
        y_block_boxes_ = y.boxes(y_block_);
    }
    symmetric_ ? order_symmetric() : order_rectangle();
    values_.assign(tasks_.size(), 0.0);
    const std::size_t outputs = mode == Mode::sums ? 1 : x.features + 1;
    if (mode != Mode::value) row_.assign(outputs * x.stride, 0.0);
    if (mode == Mode::both && !symmetric_) column_.assign(outputs * y.stride, 0.0);
    x_done_ = counters(x_blocks_);
    y_done_ = counters(y_blocks_);
}

template <class T>
void Sweep<T>::run(std::size_t index, T* scratch) {
    const Task& task = tasks_[index];
    const bool diagonal_task = symmetric_ && task.i == task.j;
    std::atomic<unsigned>& rows_done = x_done_[task.i];
    std::atomic<unsigned>& columns_done = symmetric_ ? x_done_[task.j] : y_done_[task.j];
    const bool has_columns = mode_ == Mode::both && !diagonal_task;
    if (mode_ != Mode::value) wait_until(rows_done, task.row_turn);
    if (has_columns) wait_until(columns_done, task.column_turn);
    values_[index] = diagonal_task ? diagonal(task.i, scratch) : off_diagonal(task, scratch);
    rows_done.fetch_add(1, std::memory_order_release);
    if (has_columns) columns_done.fetch_add(1, std::memory_order_release);
}

template <class T>
double Sweep<T>::total() const {
    double sum = 0;
    if (mode_ == Mode::value) {
        for (double v : values_) sum += v;
    } else {
        for (std::size_t i = 0; i < x_.rows; ++i) sum += (x_.weights ? double(x_.weights[i]) : 1.0) * row_[i];
    }
    return sum;
}

template <class T>
void Sweep<T>::add_task(std::size_t i, std::size_t j, std::vector<unsigned>& rows, std::vector<unsigned>& columns) {
    const bool diagonal_task = symmetric_ && i == j;
    tasks_.push_back({i, j, rows[i], diagonal_task ? 0 : columns[j]});
    ++rows[i];
    if (!diagonal_task) ++columns[j];
}

// Every block meets every other once, in rounds without a common block (the circle method of tournaments).
template <class T>
void Sweep<T>::order_symmetric() {
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
template <class T>
void Sweep<T>::order_rectangle() {
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

template <class T>
double Sweep<T>::tile(TileFunction<T> function, Range rows, Range columns, T* scratch) {
    Tile<T> t{};
    t.x = x_.points.get() + rows.begin;
    t.y = y_.points.get() + columns.begin;
    t.x_stride = x_.stride;
    t.y_stride = y_.stride;
    t.wx = x_.weights ? x_.weights.get() + rows.begin : nullptr;
    t.wy = y_.weights ? y_.weights.get() + columns.begin : nullptr;
    t.features = x_.features;
    t.rows = int(rows.end - rows.begin);
    t.columns = int(columns.end - columns.begin);
    t.row = row_.data() + rows.begin;
    t.row_stride = x_.stride;
    t.column = (symmetric_ ? row_.data() : column_.data()) + columns.begin;
    t.column_stride = y_.stride;
    t.scales = scales_.data();
    t.scale_count = int(scales_.size());
    t.scratch = scratch;
    function(t);
    return t.value;
}

// Rows of one group, or of several where nothing is grouped, against at most kTileColumns columns.
template <class T>
double Sweep<T>::near(Range rows, Range columns, T* scratch) {
    if (!grouped_) return tile(tile_, rows, columns, scratch);
    const T* const box = x_groups_.at(rows.begin);
    double value = 0;
    Range run{columns.begin, columns.begin};  // columns that lie near, one group after the other
    for (std::size_t j = columns.begin; j < columns.end; j += kGroup) {
        const std::size_t end = std::min(j + kGroup, columns.end);
        if (apart(box, y_groups_.at(j), x_.features)) {
            if (run.begin < run.end) value += tile(tile_, rows, run, scratch);
            run.begin = end;
        }
        run.end = end;
    }
    if (run.begin < run.end) value += tile(tile_, rows, run, scratch);
    return value;
}

template <class T>
double Sweep<T>::off_diagonal(const Task& task, T* scratch) {
    const Range rows{task.i * x_block_, std::min(x_.rows, (task.i + 1) * x_block_)};
    const Range columns{task.j * y_block_, std::min(y_.rows, (task.j + 1) * y_block_)};
    if (grouped_ && apart(x_block_boxes_.at(rows.begin), y_block_boxes_.at(columns.begin), x_.features)) return 0;
    const std::size_t tile_rows = grouped_ ? kGroup : kTileColumns;
    double value = 0;
    for (std::size_t j = columns.begin; j < columns.end; j += kTileColumns) {
        const Range part{j, std::min(j + kTileColumns, columns.end)};
        for (std::size_t i = rows.begin; i < rows.end; i += tile_rows) {
            value += near({i, std::min(i + tile_rows, rows.end)}, part, scratch);
        }
    }
    return symmetric_ ? 2 * value : value;
}

// A block against itself, in strips: a square on the diagonal, and what lies right of it once for both halves.
template <class T>
double Sweep<T>::diagonal(std::size_t block, T* scratch) {
    const std::size_t end = std::min(x_.rows, (block + 1) * x_block_);
    double squares = 0, halves = 0;
    for (std::size_t i = block * x_block_; i < end; i += kDiagonal) {
        const Range rows{i, std::min(i + kDiagonal, end)};
        squares += tile(square_tile_, rows, rows, scratch);
        for (std::size_t j = rows.end; j < end; j += kTileColumns) {
            halves += near(rows, {j, std::min(j + kTileColumns, end)}, scratch);
        }
    }
    return squares + 2 * halves;
}

template <class T>
void run_sweeps(const std::vector<Sweep<T>*>& sweeps, int threads) {
    std::size_t tasks = 0, pairs = 0, scratch_each = 0;
    for (const auto* sweep : sweeps) {
        tasks += sweep->tasks();
        pairs += sweep->pairs();
        scratch_each = std::max(scratch_each, scratch_size(sweep->features(), kTileColumns));
    }
    if (pairs < kSerialPairs) threads = 1;
    threads = int(std::min<std::size_t>(std::max(threads, 1), std::max<std::size_t>(tasks, 1)));
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

#define HEPGEN_INSTANTIATE(T) \
    template class Sweep<T>;  \
    template void run_sweeps<T>(const std::vector<Sweep<T>*>&, int);
HEPGEN_INSTANTIATE(float)
HEPGEN_INSTANTIATE(double)

}  // namespace hepgen
