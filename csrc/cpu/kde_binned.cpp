#include <limits>
#include <stdexcept>

#include "hepgen/kde.hpp"
#include "hepgen/kde_plan.hpp"

namespace hepgen {
namespace {

constexpr std::size_t kLargestGrid = std::size_t(1) << 22;
constexpr std::size_t kConvolveBlock = 256, kPadding = 64;
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

// The kernel is cut after so many bandwidths: 6.7e-10 and 1.3e-14 of its peak.
template <class T>
inline constexpr double kReach = sizeof(T) == 4 ? 6.5 : 8.0;

ConvolveFunction convolve_function() {
    return HEPGEN_ACTIVE(convolve_function());
}

// A feature's grid with `reach` more steps on either side. Bin b lies at origin + (b - reach) step.
struct Axis {
    double origin, step;
    std::size_t reach, bins;
};

template <class T>
double uniform_step(const KdeInput<T>& in, std::size_t f) {
    const double first = in.at(0, f), last = in.at(in.points - 1, f), step = (last - first) / double(in.points - 1);
    const double largest = std::max(std::abs(first), std::abs(last));
    const double slack = 1e-3 * step + 1e-6 * largest;  // float32 grids wobble in their last digits
    bool even = step > 0 && std::isfinite(step) && std::isfinite(1 / step);
    for (std::size_t g = 1; g < in.points; ++g) even &= std::abs(in.at(g, f) - in.at(g - 1, f) - step) <= slack;
    if (!even) {
        throw std::invalid_argument(
            "the binned method needs a uniform, increasing grid (torch.linspace): use method='exact' for others");
    }
    return step;
}

template <class T>
std::vector<Axis> make_axes(const KdeInput<T>& in, std::size_t common_reach = 0) {
    if (in.points < 2) throw std::invalid_argument("the binned method needs a grid of at least two points");
    std::vector<Axis> axes;
    double step = 0;
    for (std::size_t f = 0; f < in.features; ++f) {
        if (f == 0 || !in.shared) step = uniform_step(in, f);
        const double reach = std::ceil(kReach<T> * in.bandwidth[f] / step);
        if (!(double(in.points) + 2 * reach + 1 <= double(kLargestGrid))) {
            throw std::invalid_argument(
                "the bandwidth spans too many grid steps, too many for the binned method: use method='exact'");
        }
        const std::size_t steps = common_reach ? common_reach : std::size_t(reach);
        axes.push_back({in.at(0, f), step, steps, in.points + 2 * steps + 1});
    }
    return axes;
}

template <class T>
Run<T> place(Run<T> run, const Axis& axis) {
    run.origin = axis.origin;
    run.inverse = 1 / axis.step;
    run.shift = double(axis.reach);
    run.end = double(axis.bins - 1);
    run.bins = std::int64_t(axis.bins);
    return run;
}

// Offsets of arrays that lie one after the other, each from a cache line on.
struct Layout {
    std::vector<std::size_t> begin;
    std::size_t total = 0;
    void add(std::size_t size) {
        begin.push_back(total);
        total += round_up(size, 8);
    }
};

std::vector<double> make_taps(const Axis& axis, double bandwidth) {
    std::vector<double> taps(axis.reach + 1 + kPadding, 0.0);
    for (std::size_t j = 0; j <= axis.reach; ++j) {
        const double d = double(j) * axis.step / bandwidth;
        taps[j] = std::exp(-0.5 * d * d);
    }
    return taps;
}

// Samples into bins: one partial sum per chunk and feature, added in chunk order.
template <class T>
class Binning {
  public:
    Binning(const KdeInput<T>& in, const std::vector<Axis>& axes)
        : in_(in),
          axes_(axes),
          functions_(kde_functions<T>()),
          chunks_(in.rows, 2 * axes[0].bins),
          gates_(in.features) {
        for (const Axis& axis : axes) layout_.add(2 * (axis.bins + kSpareBins));
        pairs_ = allocate<double>(chunks_.count * layout_.total);
    }

    std::size_t tasks() const { return chunks_.count * in_.features; }

    void run(std::size_t task) {
        const std::size_t c = task / in_.features, f = task % in_.features;
        double* const to = partial(c, f);
        std::fill(to, to + 2 * (axes_[f].bins + kSpareBins), 0.0);
        functions_.bin(place(make_run(in_, f, chunks_.begin(c), chunks_.size(c)), axes_[f]), to);
        gates_.pass(f);
    }

    // Waits for the feature's chunks. counts: (bins,); NaN where a sample is.
    void reduce(std::size_t f, double* counts) {
        gates_.wait(f, chunks_.count);
        const std::size_t bins = axes_[f].bins, size = 2 * (bins + kSpareBins);
        double* const sums = partial(0, f);
        for (std::size_t c = 1; c < chunks_.count; ++c) {
            const double* more = partial(c, f);
            for (std::size_t i = 0; i < size; ++i) sums[i] += more[i];
        }
        const double poison = sums[2 * (bins + kNaNBin)] != 0 ? kNaN : 0;
        double moved = 0;
        for (std::size_t b = 0; b < bins; ++b) {
            counts[b] = sums[2 * b] - sums[2 * b + 1] + moved + poison;
            moved = sums[2 * b + 1];
        }
    }

  private:
    double* partial(std::size_t c, std::size_t f) { return pairs_.get() + c * layout_.total + layout_.begin[f]; }

    const KdeInput<T>& in_;
    const std::vector<Axis>& axes_;
    KdeFunctions<T> functions_;
    Chunks chunks_;
    Gates gates_;
    Layout layout_;
    Aligned<double> pairs_;
};

// What bin_slopes wants: the field at every bin and its slope from there to the next.
struct Field {
    const double* values;
    double* slopes;
};

void finish_field(const Axis& axis, double* values, double* slopes) {
    values[axis.bins] = values[axis.bins + 1] = 0;
    values[axis.bins + kNaNBin] = values[axis.bins + kNaNBin + 1] = kNaN;
    for (std::size_t b = 0; b + 1 < axis.bins; ++b) slopes[b] = (values[b + 1] - values[b]) / axis.step;
    slopes[axis.bins - 1] = slopes[axis.bins] = slopes[axis.bins + 1] = 0;
    slopes[axis.bins + kNaNBin] = slopes[axis.bins + kNaNBin + 1] = kNaN;
}

}  // namespace

template <class T>
void kde_binned(const KdeInput<T>& in, int threads, T* density) {
    const std::vector<Axis> axes = make_axes(in);
    const std::size_t F = in.features, blocks = (in.points + kConvolveBlock - 1) / kConvolveBlock;
    Binning<T> binning(in, axes);
    const auto convolve = convolve_function();
    const std::vector<double> norm = norms(in, weight_sum(in));
    Layout layout;
    std::vector<std::vector<double>> taps;
    for (std::size_t f = 0; f < F; ++f) {
        layout.add(axes[f].bins + 2 * kConvolveBlock);
        taps.push_back(make_taps(axes[f], in.bandwidth[f]));
    }
    const auto counts = allocate<double>(layout.total);
    Gates reduced(F);
    const std::size_t first_reduce = binning.tasks(), first_block = first_reduce + F;
    parallel_tasks(threads_for(in, threads), first_block + F * blocks, [&](std::size_t task) {
        if (task < first_reduce) return binning.run(task);
        if (task < first_block) {
            const std::size_t f = task - first_reduce;
            double* const to = counts.get() + layout.begin[f];
            binning.reduce(f, to);
            std::fill(to + axes[f].bins, to + axes[f].bins + 2 * kConvolveBlock, 0.0);
            return reduced.pass(f);
        }
        const std::size_t f = (task - first_block) / blocks, begin = (task - first_block) % blocks * kConvolveBlock;
        const std::size_t count = std::min(kConvolveBlock, in.points - begin);
        reduced.wait(f, 1);
        alignas(64) double sums[kConvolveBlock];
        convolve(counts.get() + layout.begin[f] + begin, taps[f].data(), axes[f].reach, count, sums);
        T* const to = density + f * in.points + begin;
        const double least = in.weights ? -std::numeric_limits<double>::infinity() : 0.0;  // rounding only
        for (std::size_t g = 0; g < count; ++g) {
            const double sum = sums[g] < least ? least : sums[g];
            to[g] = static_cast<T>(sum * norm[f]);
        }
    });
}

template <class T>
void kde_binned_gradients(const KdeInput<T>& in, const T* density, const T* slope, int threads, KdeGradients<T> out) {
    const std::vector<Axis> axes = make_axes(in);
    const std::size_t F = in.features;
    const double total = weight_sum(in);
    const std::vector<double> norm = norms(in, total);
    const double correction = out.weights ? weight_correction(in, density, slope, total) : 0;
    const auto functions = kde_functions<T>();
    const auto convolve = convolve_function();
    Layout layout;
    for (const Axis& axis : axes) layout.add(axis.bins + kPadding + kSpareBins);
    const auto values = allocate<double>(layout.total), slopes = allocate<double>(layout.total);
    const std::size_t gathers = (in.rows + kGatherRows - 1) / kGatherRows;
    Gates fields(1);
    parallel_tasks(threads_for(in, threads), F + gathers, [&](std::size_t task) {
        if (task < F) {
            const std::size_t f = task, reach = axes[f].reach;
            const auto padded = allocate<double>(axes[f].bins + 2 * reach + 2 * kPadding);
            std::fill(padded.get(), padded.get() + axes[f].bins + 2 * reach + 2 * kPadding, 0.0);
            for (std::size_t g = 0; g < in.points; ++g) {
                padded[2 * reach + g] = double(slope[f * in.points + g]) * norm[f];
            }
            double* const to = values.get() + layout.begin[f];
            convolve(padded.get(), make_taps(axes[f], in.bandwidth[f]).data(), reach, axes[f].bins, to);
            finish_field(axes[f], to, slopes.get() + layout.begin[f]);
            return fields.pass(0);
        }
        const std::size_t first = (task - F) * kGatherRows;
        fields.wait(0, F);
        gather_rows(in, first, std::min(kGatherRows, in.rows - first), correction, out,
                    [&](std::size_t f, const Run<T>& run, RunSlopes<T> to) {
                        const std::size_t begin = layout.begin[f];
                        functions.bin_slopes(place(run, axes[f]), values.get() + begin, slopes.get() + begin, to);
                    });
    });
}

template <class T>
std::size_t kde_reach(const KdeInput<T>& in) {
    std::size_t reach = 1;
    for (const Axis& axis : make_axes(in)) reach = std::max(reach, axis.reach);
    return reach;
}

template <class T>
void kde_counts(const KdeInput<T>& in, std::size_t reach, int threads, double* counts) {
    const std::vector<Axis> axes = make_axes(in, reach);
    Binning<T> binning(in, axes);
    parallel_tasks(threads_for(in, threads), binning.tasks() + in.features, [&](std::size_t task) {
        if (task < binning.tasks()) return binning.run(task);
        const std::size_t f = task - binning.tasks();
        binning.reduce(f, counts + f * axes[f].bins);
    });
}

template <class T>
void kde_counts_gradients(const KdeInput<T>& in, std::size_t reach, const double* field, int threads,
                          KdeGradients<T> out) {
    const std::vector<Axis> axes = make_axes(in, reach);
    const auto functions = kde_functions<T>();
    const std::size_t size = axes[0].bins + kSpareBins;
    const auto values = allocate<double>(size * in.features), slopes = allocate<double>(size * in.features);
    for (std::size_t f = 0; f < in.features; ++f) {
        std::copy_n(field + f * axes[f].bins, axes[f].bins, values.get() + f * size);
        finish_field(axes[f], values.get() + f * size, slopes.get() + f * size);
    }
    parallel_tasks(threads_for(in, threads), (in.rows + kGatherRows - 1) / kGatherRows, [&](std::size_t task) {
        const std::size_t first = task * kGatherRows;
        gather_rows(in, first, std::min(kGatherRows, in.rows - first), 0.0, out,
                    [&](std::size_t f, const Run<T>& run, RunSlopes<T> to) {
                        functions.bin_slopes(place(run, axes[f]), values.get() + f * size, slopes.get() + f * size, to);
                    });
    });
}

template <class T>
double kde_divergence(const KdeInput<T>& in, const double* target, double floor, int threads, T* density, T* slope) {
    const std::size_t G = in.points;
    kde_binned(in, threads, density);
    double divergence = 0;
    for (std::size_t f = 0; f < in.features; ++f) {
        const double step = (in.at(G - 1, f) - in.at(0, f)) / double(G - 1);
        for (std::size_t i = f * G; i < (f + 1) * G; ++i) {
            const double given = step * double(density[i]), mass = given < floor ? floor : given;
            if (!(target[i] == 0)) divergence += target[i] * std::log(target[i] / mass);
            slope[i] = static_cast<T>(given < floor ? 0.0 : -target[i] * step / mass / double(in.features));
        }
        // a feature of NaN is NaN even where the target is zero
        divergence += 0 * double(density[f * G]);
    }
    return divergence / double(in.features);
}

#define HEPGEN_INSTANTIATE(T)                                                                                    \
    template void kde_binned<T>(const KdeInput<T>&, int, T*);                                                    \
    template void kde_binned_gradients<T>(const KdeInput<T>&, const T*, const T*, int, KdeGradients<T>);         \
    template std::size_t kde_reach<T>(const KdeInput<T>&);                                                       \
    template void kde_counts<T>(const KdeInput<T>&, std::size_t, int, double*);                                  \
    template void kde_counts_gradients<T>(const KdeInput<T>&, std::size_t, const double*, int, KdeGradients<T>); \
    template double kde_divergence<T>(const KdeInput<T>&, const double*, double, int, T*, T*);
HEPGEN_INSTANTIATE(float)
HEPGEN_INSTANTIATE(double)

}  // namespace hepgen
