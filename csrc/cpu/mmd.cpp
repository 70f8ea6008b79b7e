#include "hepgen/mmd.hpp"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <vector>

#include "hepgen/gaussian_sweep.hpp"

namespace hepgen {
namespace {

// Gaussians whose bandwidths are proportional share their distances: a part of the kernel that one sweep makes.
struct Part {
    std::vector<int> features;
    std::vector<double> sigma;   // the widest bandwidth
    std::vector<double> scales;  // its ratio to each
    double share;                // of the kernel's mean that each Gaussian has
};

bool proportional(const double* a, const double* b, int features) {
    const double ratio = a[0] / b[0];
    return std::all_of(a, a + features, [&](const double& v) { return std::abs(v - ratio * b[&v - a]) <= 1e-12 * v; });
}

std::vector<Part> joint_parts(Bandwidths given, int features) {
    std::vector<Part> parts;
    for (int s = 0; s < given.count; ++s) {
        const double* sigma = given.sigma + s * features;
        const auto part = std::find_if(parts.begin(), parts.end(),
                                       [&](const Part& p) { return proportional(p.sigma.data(), sigma, features); });
        if (part == parts.end()) {
            std::vector<int> all(features);
            std::iota(all.begin(), all.end(), 0);
            parts.push_back({all, {sigma, sigma + features}, {1.0}, 1.0 / given.count});
        } else {
            part->scales.push_back(part->sigma[0] / sigma[0]);
        }
    }
    // no scale below one: pairs out of reach of the widest Gaussian are out of reach of all
    for (Part& part : parts) {
        const double widest = *std::min_element(part.scales.begin(), part.scales.end());
        for (double& s : part.sigma) s /= widest;
        for (double& c : part.scales) c /= widest;
    }
    return parts;
}

std::vector<Part> parts_of(const KernelOptions& options, int features) {
    if (!options.per_feature) return joint_parts(options.bandwidths, features);
    std::vector<Part> parts;
    for (int f = 0; f < features; ++f) {
        std::vector<double> sigma;
        for (int s = 0; s < options.bandwidths.count; ++s) {
            sigma.push_back(options.bandwidths.sigma[s * features + f]);
        }
        // several where bandwidths are so far apart that their ratio is no number
        for (Part& part : joint_parts({sigma.data(), options.bandwidths.count}, 1)) {
            part.features = {f};
            part.share /= features;
            parts.push_back(part);
        }
    }
    return parts;
}

template <class T>
void group(Packed<T>& x, Packed<T>& y, Grouping grouping) {
    const bool always = grouping == Grouping::always && x.rows && y.rows;
    if (always || (grouping == Grouping::automatic && grouping_pays(x, y))) {
        x.group();
        y.group();
    }
}

// to[row, feature] += factor * gradient of the weighted kernel sum of that point, from what a sweep left for it.
template <class T>
void add_point_gradient(const Packed<T>& packed, const Frame& frame, const double* outputs, double factor, double* to,
                        int features) {
    for (int f = 0; f < packed.features; ++f) {
        const double* source = outputs + (1 + f) * packed.stride;
        const double by = factor * frame.gradient_factor[f];
        double* const column = to + frame.feature[f];
        for (std::size_t i = 0; i < packed.rows; ++i) column[packed.row_of(i) * features] += by * source[i];
    }
}

template <class T>
void store(const std::vector<double>& from, T* to) {
    if (to) std::transform(from.begin(), from.end(), to, [](double v) { return static_cast<T>(v); });
}

Mode mode_for(bool points, bool weights) {
    return points ? Mode::both : weights ? Mode::sums : Mode::value;
}

// Sums over the rows of one sample, in double, that several parts add to.
template <class T>
struct Totals {
    std::vector<double> points, weights;

    Totals(const Sample<T>& sample, bool wants_points, bool wants_weights)
        : points(wants_points ? sample.rows * sample.features : 0), weights(wants_weights ? sample.rows : 0) {}
};

// A part of the kernel over one sample.
template <class T>
struct OwnPart {
    Frame frame;
    double share;
    Packed<T> packed;
    Sweep<T> sweep;
    OwnPart(const Sample<T>& x, const Part& part, Grouping grouping)
        : frame(make_frame(x, part.features, part.sigma)),
          share(part.share),
          packed(grouped(x, frame, grouping)),
          sweep(packed, packed, {part.scales.begin(), part.scales.end()}, Mode::value) {}

    static Packed<T> grouped(const Sample<T>& x, const Frame& frame, Grouping grouping) {
        Packed<T> packed(x, frame, x.weights != nullptr);
        group(packed, packed, grouping);
        return packed;
    }
};

// A part of the kernel over two samples, with the sweeps that mmd2 needs.
template <class T>
class MmdPart {
  public:
    struct Wanted {
        bool x, y, wx, wy, y_mean;
    };

    MmdPart(const Sample<T>& x, const Sample<T>& y, const Part& part, Grouping grouping, Wanted wanted)
        : frame_(make_frame(y, part.features, part.sigma)),
          share_(part.share),
          px_(x, frame_, x.weights || y.weights),
          py_(y, frame_, x.weights || y.weights) {
        group(px_, py_, grouping);
        const std::vector<T> scales(part.scales.begin(), part.scales.end());
        const bool x_side = wanted.x || wanted.wx, y_side = wanted.y || wanted.wy;
        // the cross sum gives one side's gradients by rows, both sides' only where both are wanted
        turned_ = y_side && !x_side;
        const Mode one_side = wanted.x || wanted.y ? Mode::rows : x_side || y_side ? Mode::sums : Mode::value;
        const Mode mode = x_side && y_side ? Mode::both : one_side;
        cross_ = std::make_unique<Sweep<T>>(turned_ ? py_ : px_, turned_ ? px_ : py_, scales, mode);
        xx_ = std::make_unique<Sweep<T>>(px_, px_, scales, mode_for(wanted.x, wanted.wx));
        if (wanted.y_mean) yy_ = std::make_unique<Sweep<T>>(py_, py_, scales, mode_for(wanted.y, wanted.wy));
    }
    MmdPart(const MmdPart&) = delete;
    MmdPart& operator=(const MmdPart&) = delete;

    void add_sweeps(std::vector<Sweep<T>*>& sweeps) {
        for (auto* sweep : {cross_.get(), xx_.get(), yy_.get()}) {
            if (sweep) sweeps.push_back(sweep);
        }
    }

    double value(double cross_weight) const {
        const double sx = px_.weight_sum, sy = py_.weight_sum;
        const double y_term = yy_ ? yy_->total() / (sy * sy) : 0;
        return share_ * (xx_->total() / (sx * sx) + y_term - cross_weight * cross_->total() / (sx * sy));
    }

    void add_x_gradients(double cross_weight, Totals<T>& out, int features) const {
        add_gradients(px_, *xx_, cross_->row(), cross_weight / (px_.weight_sum * py_.weight_sum), out, features);
    }
    void add_y_gradients(double cross_weight, Totals<T>& out, int features) const {
        const double* cross = turned_ ? cross_->row() : cross_->column();
        add_gradients(py_, *yy_, cross, cross_weight / (px_.weight_sum * py_.weight_sum), out, features);
    }

  private:
    // One side's share: `own` is that side against itself, `cross` against the other sample.
    void add_gradients(const Packed<T>& packed, const Sweep<T>& own, const double* cross, double cross_factor,
                       Totals<T>& out, int features) const {
        const double s = packed.weight_sum;
        if (!out.points.empty()) {
            add_point_gradient(packed, frame_, own.row(), share_ * 2 / (s * s), out.points.data(), features);
            add_point_gradient(packed, frame_, cross, -share_ * cross_factor, out.points.data(), features);
        }
        if (!out.weights.empty()) {
            // d/dw_i of A / s^2 - c C / (s t): 2 a_i / s^2 - 2 A / s^3 - c (c_i - C / s) / (s t)
            const double own_mean = own.total() / s, cross_mean = cross_->total() / s;
            for (std::size_t i = 0; i < packed.rows; ++i) {
                const double own_slope = 2 * (own.row()[i] - own_mean) / (s * s);
                out.weights[packed.row_of(i)] += share_ * (own_slope - cross_factor * (cross[i] - cross_mean));
            }
        }
    }

    Frame frame_;
    double share_;
    Packed<T> px_, py_;
    bool turned_;
    std::unique_ptr<Sweep<T>> cross_, xx_, yy_;
};

}  // namespace

template <class T>
void gaussian_sums(Sample<T> x, Sample<T> y, const KernelOptions& options, KernelGradients<T> out) {
    Totals<T> totals(x, out.points, true);
    for (const Part& part : parts_of(options, x.features)) {
        const Frame frame = make_frame(y.rows ? y : x, part.features, part.sigma);
        const bool weighted = y.weights != nullptr;
        Packed<T> rows(x, frame, weighted), columns(y, frame, weighted);
        group(rows, columns, options.grouping);
        const std::vector<T> scales(part.scales.begin(), part.scales.end());
        Sweep<T> sweep(rows, columns, scales, out.points ? Mode::rows : Mode::sums);
        run_sweeps<T>({&sweep}, options.threads);
        for (std::size_t i = 0; i < x.rows; ++i) totals.weights[rows.row_of(i)] += part.share * sweep.row()[i];
        if (out.points) add_point_gradient(rows, frame, sweep.row(), part.share, totals.points.data(), x.features);
    }
    store(totals.weights, out.sums);
    store(totals.points, out.points);
}

template <class T>
double kernel_mean(Sample<T> x, const KernelOptions& options) {
    std::vector<std::unique_ptr<OwnPart<T>>> parts;
    std::vector<Sweep<T>*> sweeps;
    for (const Part& part : parts_of(options, x.features)) {
        parts.push_back(std::make_unique<OwnPart<T>>(x, part, options.grouping));
        sweeps.push_back(&parts.back()->sweep);
    }
    run_sweeps(sweeps, options.threads);
    double mean = 0;
    for (const auto& part : parts) {
        mean += part->share * part->sweep.total() / (part->packed.weight_sum * part->packed.weight_sum);
    }
    return mean;
}

template <class T>
double mmd2(Sample<T> x, Sample<T> y, const KernelOptions& options, double cross_weight, std::optional<double> y_mean,
            MmdGradients<T> out) {
    const bool x_side = out.x || out.wx, y_side = out.y || out.wy;
    std::vector<std::unique_ptr<MmdPart<T>>> parts;
    std::vector<Sweep<T>*> sweeps;
    for (const Part& part : parts_of(options, x.features)) {
        const typename MmdPart<T>::Wanted wanted{bool(out.x), bool(out.y), bool(out.wx), bool(out.wy),
                                                 !y_mean || y_side};
        parts.push_back(std::make_unique<MmdPart<T>>(x, y, part, options.grouping, wanted));
        parts.back()->add_sweeps(sweeps);
    }
    run_sweeps(sweeps, options.threads);

    double value = 0;
    Totals<T> of_x(x, out.x, out.wx), of_y(y, out.y, out.wy);
    for (const auto& part : parts) {
        value += part->value(cross_weight);
        if (x_side) part->add_x_gradients(cross_weight, of_x, x.features);
        if (y_side) part->add_y_gradients(cross_weight, of_y, y.features);
    }
    store(of_x.points, out.x);
    store(of_x.weights, out.wx);
    store(of_y.points, out.y);
    store(of_y.weights, out.wy);
    return value + (y_mean && !y_side ? *y_mean : 0);
}

#define HEPGEN_INSTANTIATE(T)                                                                       \
    template void gaussian_sums<T>(Sample<T>, Sample<T>, const KernelOptions&, KernelGradients<T>); \
    template double kernel_mean<T>(Sample<T>, const KernelOptions&);                                \
    template double mmd2<T>(Sample<T>, Sample<T>, const KernelOptions&, double, std::optional<double>, MmdGradients<T>);
HEPGEN_INSTANTIATE(float)
HEPGEN_INSTANTIATE(double)

}  // namespace hepgen
