// Two ways, chosen feature by feature. In cells (the fast Gauss transform of Greengard and Strain, SIAM J. Sci. Stat.
// Comput. 12 (1991) 79, with the expansion carried to the working precision): every sample adds the powers of its
// offset to its cell, every grid point sums the cells within reach; the work is O(rows + points). In windows, where
// cells would be too many or points are few: every sample meets the sorted grid points within its reach.
#include <limits>
#include <memory>
#include <numeric>

#include "hepgen/kde.hpp"
#include "hepgen/kde_plan.hpp"

namespace hepgen {
namespace {

constexpr double kMostCells = 1 << 18;
constexpr std::size_t kPointBlock = 128, kCellBlock = 4 * kLongestVector;

// One feature's grid, sorted, and the choice between cells and windows.
template <class T>
struct Plane {
    static constexpr int terms = Expansion<T>::terms;

    std::vector<std::size_t> order;  // order[j]: place in the given grid of the j-th smallest point
    std::vector<double> points;      // sorted; in units of cells where there are cells
    double origin, inverse;          // inverse: cells, or units of sqrt(2) bandwidths, per unit of x
    std::int64_t cells = 0;          // 0: windows

    Plane(const KdeInput<T>& in, std::size_t f) {
        order.resize(in.points);
        std::iota(order.begin(), order.end(), std::size_t(0));
        const auto before = [&](std::size_t a, std::size_t b) { return in.at(a, f) < in.at(b, f); };
        if (!std::is_sorted(order.begin(), order.end(), before)) std::stable_sort(order.begin(), order.end(), before);
        for (std::size_t g : order) points.push_back(in.at(g, f));
        origin = points.front();
        inverse = 1 / (kSqrt2 * in.bandwidth[f]);
        if (cells_pay(in.rows)) {
            inverse /= Expansion<T>::width;
            for (double& point : points) point = (point - origin) * inverse + kReachCells<T>;
            cells = std::int64_t(points.back()) + kReachCells<T> + 1;
        } else {
            points.insert(points.end(), kLongestVector, std::numeric_limits<double>::infinity());
        }
    }

    // Cycles, from measurements: what is left out are factors common to both.
    bool cells_pay(std::size_t rows) const {
        const double span = (points.back() - origin) * inverse, count = span / Expansion<T>::width + 2 * kReachCells<T>;
        if (!(count < kMostCells)) return false;
        const double n = double(rows), g = double(points.size());
        const double in_reach = g * std::min(1.0, 2 * Expansion<double>::reach / span);
        return 8 * n + g * 8 * terms + count * terms < n * (30 + 3 * in_reach);
    }

    std::size_t stride() const { return round_up(std::size_t(cells), 8) + kWindowCells<T> + kLongestVector; }
    std::size_t sums() const {
        return cells ? std::size_t(cells + kSpareBins) * terms : points.size() + kSpareBins + kLongestVector;
    }
    std::size_t poison_at() const {
        return cells ? std::size_t(cells + kNaNBin) * terms : points.size() - kLongestVector + kNaNBin;
    }

    Run<T> place(Run<T> run) const {
        run.origin = origin;
        run.inverse = inverse;
        run.shift = kReachCells<T>;
        run.end = double(cells);
        run.bins = cells ? cells : std::int64_t(points.size() - kLongestVector);
        return run;
    }
};

template <class T>
std::vector<Plane<T>> make_planes(const KdeInput<T>& in) {
    std::vector<Plane<T>> planes;
    planes.reserve(in.features);
    for (std::size_t f = 0; f < in.features; ++f) planes.emplace_back(in, f);
    return planes;
}

// Moments (terms of one cell after the other) -> coefficients (cells of one term after the other), with 2^k / k!.
template <class T>
void make_coefficients(const Plane<T>& plane, const double* moments, T* coefficients) {
    constexpr int terms = Expansion<T>::terms;
    double factor = 1;
    for (int k = 0; k < terms; factor *= 2.0 / ++k) {
        T* const row = coefficients + k * plane.stride();
        for (std::int64_t c = 0; c < plane.cells; ++c) row[c] = static_cast<T>(factor * moments[c * terms + k]);
        std::fill(row + plane.cells, row + plane.stride(), T(0));
    }
}

template <class T>
class ExactSums {
  public:
    ExactSums(const KdeInput<T>& in, const std::vector<Plane<T>>& planes)
        : in_(in),
          planes_(planes),
          functions_(kde_functions<T>()),
          chunks_(in.rows, planes[0].sums()),
          gates_(in.features),
          norm_(norms(in, weight_sum(in))),
          poison_(in.features) {
        for (const auto& plane : planes) {
            begin_.push_back(total_);
            total_ += round_up(plane.sums(), 8);
            coefficients_.push_back(allocate<T>(plane.cells ? plane.stride() * Expansion<T>::terms : 0));
        }
        partial_ = allocate<double>(chunks_.count * total_);
    }

    std::size_t tasks() const { return chunks_.count * in_.features; }

    void run(std::size_t task) {
        const std::size_t c = task / in_.features, f = task % in_.features;
        double* const to = partial(c, f);
        std::fill(to, to + planes_[f].sums(), 0.0);
        const Run<T> run = planes_[f].place(make_run(in_, f, chunks_.begin(c), chunks_.size(c)));
        planes_[f].cells ? functions_.moments(run, to) : functions_.window(run, planes_[f].points.data(), to);
        gates_.pass(f);
    }

    void reduce(std::size_t f) {
        gates_.wait(f, chunks_.count);
        double* const sums = partial(0, f);
        for (std::size_t c = 1; c < chunks_.count; ++c) {
            const double* more = partial(c, f);
            for (std::size_t i = 0; i < planes_[f].sums(); ++i) sums[i] += more[i];
        }
        poison_[f] = sums[planes_[f].poison_at()] != 0 ? std::numeric_limits<double>::quiet_NaN() : 0.0;
        if (planes_[f].cells) make_coefficients(planes_[f], sums, coefficients_[f].get());
        gates_.pass(f);
    }

    void evaluate(std::size_t f, std::size_t first, std::size_t count, T* density) {
        gates_.wait(f, chunks_.count + 1);
        const Plane<T>& plane = planes_[f];
        double sums[kPointBlock];
        if (plane.cells) {
            functions_.evaluate({plane.cells, plane.stride(), coefficients_[f].get(), nullptr},
                                plane.points.data() + first, count, sums);
        } else {
            std::copy_n(partial(0, f) + first, count, sums);
        }
        for (std::size_t i = 0; i < count; ++i) {
            density[plane.order[first + i]] = static_cast<T>(sums[i] * norm_[f] + poison_[f]);
        }
    }

  private:
    double* partial(std::size_t c, std::size_t f) { return partial_.get() + c * total_ + begin_[f]; }

    const KdeInput<T>& in_;
    const std::vector<Plane<T>>& planes_;
    KdeFunctions<T> functions_;
    Chunks chunks_;
    Gates gates_;
    std::vector<double> norm_, poison_;
    std::vector<std::size_t> begin_;
    std::size_t total_ = 0;
    std::vector<Aligned<T>> coefficients_;
    Aligned<double> partial_;
};

// The field that samples feel: the slopes of the density at the points, as expansions in cells or point by point.
template <class T>
class ExactField {
  public:
    ExactField(const KdeInput<T>& in, const std::vector<Plane<T>>& planes, const T* slope,
               const std::vector<double>& norm)
        : planes_(planes), functions_(kde_functions<T>()) {
        constexpr std::size_t row = 2 * Expansion<T>::terms;
        for (std::size_t f = 0; f < in.features; ++f) {
            const Plane<T>& plane = planes[f];
            std::vector<double> sorted(in.points + kLongestVector, 0.0);
            for (std::size_t j = 0; j < in.points; ++j) {
                sorted[j] = double(slope[f * in.points + plane.order[j]]) * norm[f];
            }
            values_.push_back(std::move(sorted));
            tables_.push_back(allocate<double>(plane.cells ? std::size_t(plane.cells + kSpareBins) * row : 0));
            if (!plane.cells) continue;
            double* const spare = tables_[f].get() + plane.cells * row;
            std::fill(spare, spare + kSpareBins * row, 0.0);
            std::fill(spare + kNaNBin * row, spare + kSpareBins * row, std::numeric_limits<double>::quiet_NaN());
            for (std::int64_t c = 0; c < plane.cells; c += kCellBlock) blocks_.push_back({f, c});
        }
    }

    std::size_t tasks() const { return blocks_.size(); }

    void expand(std::size_t task) {
        const auto [f, begin] = blocks_[task];
        const Plane<T>& plane = planes_[f];
        const auto end = plane.points.begin() + std::ptrdiff_t(values_[f].size() - kLongestVector);
        const std::int64_t last = std::min<std::int64_t>(begin + std::int64_t(kCellBlock), plane.cells);
        for (std::int64_t c = begin; c < last; c += kLongestVector) {
            const auto from = std::lower_bound(plane.points.begin(), end, double(c - kReachCells<T>));
            const auto to = std::lower_bound(from, end, double(c + kLongestVector + kReachCells<T>));
            const std::size_t first = std::size_t(from - plane.points.begin());
            functions_.expand({plane.cells, plane.stride(), nullptr, tables_[f].get()}, c, plane.points.data() + first,
                              values_[f].data() + first, std::size_t(to - from));
        }
    }

    void slopes(std::size_t f, const Run<T>& run, RunSlopes<T> to) const {
        const Run<T> placed = planes_[f].place(run);
        if (planes_[f].cells) {
            functions_.moment_slopes(placed, tables_[f].get(), to);
        } else {
            functions_.window_slopes(placed, planes_[f].points.data(), values_[f].data(), to);
        }
    }

  private:
    struct Block {
        std::size_t f;
        std::int64_t cell;
    };
    const std::vector<Plane<T>>& planes_;
    KdeFunctions<T> functions_;
    std::vector<std::vector<double>> values_;
    std::vector<Aligned<double>> tables_;
    std::vector<Block> blocks_;
};

}  // namespace

template <class T>
void kde_exact(const KdeInput<T>& in, int threads, T* density) {
    if (in.points == 0) return;
    const auto planes = make_planes(in);
    const std::size_t F = in.features, blocks = (in.points + kPointBlock - 1) / kPointBlock;
    ExactSums<T> sums(in, planes);
    const std::size_t first_reduce = sums.tasks(), first_block = first_reduce + F;
    parallel_tasks(threads_for(in, threads), first_block + F * blocks, [&](std::size_t task) {
        if (task < first_reduce) return sums.run(task);
        if (task < first_block) return sums.reduce(task - first_reduce);
        const std::size_t f = (task - first_block) / blocks, first = (task - first_block) % blocks * kPointBlock;
        sums.evaluate(f, first, std::min(kPointBlock, in.points - first), density + f * in.points);
    });
}

template <class T>
void kde_exact_gradients(const KdeInput<T>& in, const T* density, const T* slope, int threads, KdeGradients<T> out) {
    const std::size_t gathers = (in.rows + kGatherRows - 1) / kGatherRows;
    if (in.points == 0) {
        if (out.x) std::fill(out.x, out.x + in.rows * in.features, T(0));
        if (out.weights) std::fill(out.weights, out.weights + in.rows, T(0));
        return;
    }
    const auto planes = make_planes(in);
    const double total = weight_sum(in);
    const double correction = out.weights ? weight_correction(in, density, slope, total) : 0;
    ExactField<T> field(in, planes, slope, norms(in, total));
    Gates expanded(1);
    parallel_tasks(threads_for(in, threads), field.tasks() + gathers, [&](std::size_t task) {
        if (task < field.tasks()) {
            field.expand(task);
            return expanded.pass(0);
        }
        const std::size_t first = (task - field.tasks()) * kGatherRows;
        expanded.wait(0, field.tasks());
        gather_rows(in, first, std::min(kGatherRows, in.rows - first), correction, out,
                    [&](std::size_t f, const Run<T>& run, RunSlopes<T> to) { field.slopes(f, run, to); });
    });
}

#define HEPGEN_INSTANTIATE(T)                                \
    template void kde_exact<T>(const KdeInput<T>&, int, T*); \
    template void kde_exact_gradients<T>(const KdeInput<T>&, const T*, const T*, int, KdeGradients<T>);
HEPGEN_INSTANTIATE(float)
HEPGEN_INSTANTIATE(double)

}  // namespace hepgen
