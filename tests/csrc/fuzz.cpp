// Random shapes, strides, places in memory, thread counts and values, finite and not, into every entry point.
//
// Each call is made twice: on plain memory with one thread, and on memory that begins anywhere and ends at its last
// number, so that the address sanitizer sees what goes beyond it. Both must give the same bits, write all of what they
// are to write and leave the rest alone. What is finite is compared with plain loops in double where these are short.
#include <algorithm>
#include <chrono>
#include <cstring>
#include <limits>
#include <memory>
#include <stdexcept>

#include "check.hpp"
#include "hepgen/broken_line.hpp"
#include "hepgen/ecd.hpp"
#include "hepgen/kde.hpp"
#include "hepgen/maf.hpp"
#include "hepgen/mlp.hpp"
#include "hepgen/mmd.hpp"
#include "hepgen/philox.hpp"

namespace hepgen::tests {
namespace {

using Numbers = std::vector<double>;

constexpr double kMark = 12345.6875;  // in float too; stands where nothing was written

class Chance {
  public:
    Chance(unsigned seed, unsigned round, const char* name)
        : engine_(seed * 7919u + round), tame(coin()), round_(round), name_(name) {}

    std::size_t below(std::size_t n) { return engine_() % n; }
    bool coin() { return engine_() & 1; }
    int one_of(std::initializer_list<int> values) { return values.begin()[below(values.size())]; }
    std::size_t rows() { return one_of({0, 1, 2, 3, 15, 17, 31, 63, 64, 65, 127, 128, 129, 130, 200, 257}); }
    double uniform(double low, double high) { return low + (high - low) * double(engine_() >> 8) * 0x1p-24; }

    template <class T>
    T number(double scale = 1) {
        using Limits = std::numeric_limits<T>;
        constexpr T odd[] = {Limits::infinity(),
                             -Limits::infinity(),
                             Limits::quiet_NaN(),
                             Limits::denorm_min(),
                             Limits::max(),
                             Limits::lowest(),
                             T(-0.0),
                             T(1e30),
                             Limits::min()};
        if (!tame && below(16) == 0) return odd[below(std::size(odd))];
        return T(scale * normal_(engine_));
    }

    template <class T>
    std::vector<T> numbers(std::size_t n, double scale = 1) {
        std::vector<T> out(n);
        for (T& x : out) x = number<T>(scale);
        return out;
    }

    template <class T>
    std::vector<T> positive(std::size_t n) {
        std::vector<T> out = numbers<T>(n);
        for (T& x : out) x = std::abs(x) + T(0.5);
        return out;
    }

    std::string where(const char* what) const {
        return "fuzz round " + std::to_string(round_) + (tame ? ", " : ", odd numbers, ") + name_ + ": " + what;
    }

  private:
    std::mt19937 engine_;
    std::normal_distribution<double> normal_;

  public:
    const bool tame;  // all numbers of the round are ordinary ones

  private:
    unsigned round_;
    const char* name_;
};

// Memory of exactly `count` numbers behind some that nobody may touch; plain: from a cache line on.
template <class T>
class Memory {
  public:
    Memory(Chance& c, std::size_t count, bool plain) : count_(count), before_(plain ? 0 : c.below(64 / sizeof(T))) {
        void* block = nullptr;
        check(posix_memalign(&block, 64, (before_ + count) * sizeof(T) + (before_ + count == 0)) == 0, "no memory");
        block_.reset(static_cast<T*>(block));
        std::fill_n(block_.get(), before_ + count, T(kMark));
    }

    T* data() { return block_.get() + before_; }
    std::size_t size() const { return count_; }
    bool untouched_before() const {
        return std::all_of(block_.get(), block_.get() + before_, [](T x) { return x == T(kMark); });
    }

  private:
    struct Release {
        void operator()(T* p) const { std::free(p); }
    };
    std::size_t count_, before_;
    std::unique_ptr<T[], Release> block_;
};

template <class T>
bool same_bits(const T* a, const T* b, std::size_t n) {
    return n == 0 || std::memcmp(a, b, n * sizeof(T)) == 0;
}

// Numbers that a call reads and must not change.
template <class T>
class Input {
  public:
    Input(Chance& c, const std::vector<T>& from, bool plain) : c_(c), from_(from), memory_(c, from.size(), plain) {
        std::copy(from.begin(), from.end(), memory_.data());
    }
    ~Input() {
        check(memory_.untouched_before() && same_bits(memory_.data(), from_.data(), from_.size()),
              c_.where("an input was written to"));
    }
    Input(const Input&) = delete;
    Input& operator=(const Input&) = delete;

    const T* data() { return memory_.data(); }

  private:
    const Chance& c_;
    const std::vector<T>& from_;
    Memory<T> memory_;
};

// A matrix (n, columns) with rows apart, columns apart, backwards, or as it is.
template <class T>
class Matrix {
  public:
    Matrix(Chance& c, const std::vector<T>& from, std::size_t n, int columns, bool plain) {
        const int kind = plain ? 0 : int(c.below(4));
        const std::ptrdiff_t gap = c.below(4), k = columns;
        const std::ptrdiff_t across = kind == 2 ? std::ptrdiff_t(n) + gap : 1,
                             down = kind == 2 ? 1 : k + gap * (kind != 0);
        const std::size_t size = n && k ? std::size_t((std::ptrdiff_t(n) - 1) * down + (k - 1) * across + 1) : 0;
        all_.assign(size, std::numeric_limits<T>::quiet_NaN());
        const bool backwards = kind == 3 && size;
        const std::ptrdiff_t first = backwards ? (std::ptrdiff_t(n) - 1) * down : 0;
        const std::ptrdiff_t step = backwards ? -down : down;
        for (std::size_t i = 0; size && i < n; ++i) {
            for (int j = 0; j < columns; ++j) {
                all_[std::size_t(first + std::ptrdiff_t(i) * step + j * across)] = from[i * columns + j];
            }
        }
        input_ = std::make_unique<Input<T>>(c, all_, plain);
        rows = {input_->data() + first, step, across};
    }

    Rows<const T> rows;

  private:
    std::vector<T> all_;
    std::unique_ptr<Input<T>> input_;
};

// Room for numbers that a call writes, all of them; none where they are not wanted.
template <class T>
class Output {
  public:
    Output(Chance& c, std::size_t count, bool plain, bool wanted = true)
        : c_(c), memory_(c, wanted ? count : 0, plain), wanted_(wanted) {}

    T* data() { return wanted_ ? memory_.data() : nullptr; }

    void append_to(Numbers& to) {
        check(memory_.untouched_before(), c_.where("something before an output was written to"));
        for (std::size_t i = 0; i < memory_.size(); ++i) {
            check(memory_.data()[i] != T(kMark), c_.where("something of an output was not written"));
        }
        to.insert(to.end(), memory_.data(), memory_.data() + memory_.size());
    }

  private:
    const Chance& c_;
    Memory<T> memory_;
    bool wanted_;
};

bool same(const Numbers& a, const Numbers& b) {
    return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(), [](double x, double y) {
               return x == y || (std::isnan(x) && std::isnan(y));
           });
}

// run(plain, threads) in both ways.
template <class Run>
Numbers twice(Chance& c, Run run) {
    const Numbers plain = run(true, 1), odd = run(false, int(1 + c.below(3)));
    check(same(plain, odd), c.where("the answer depends on memory or threads"));
    return plain;
}

void check_all(Chance& c, const double* got, const Numbers& want, double tolerance, const char* what) {
    for (std::size_t i = 0; i < want.size(); ++i) {
        check_close(got[i], want[i], tolerance * (1 + std::abs(want[i])), c.where(what));
    }
}

// --- broken lines and random numbers

void fuzz_broken_line(Chance& c) {
    const std::size_t points = c.one_of({2, 3, 5, 64, 301}), n = c.below(40) ? c.rows() : 40'000;
    std::vector<double> x = c.numbers<double>(points), y = c.numbers<double>(points), in = c.numbers<double>(n, 2.0);
    if (c.tame) std::sort(x.begin(), x.end());
    const double left = c.number<double>(), right = c.number<double>();
    const Numbers got = twice(c, [&](bool plain, int threads) {
        Input<double> ix(c, x, plain), iy(c, y, plain), numbers(c, in, plain);
        Output<double> out(c, n, plain);
        broken_line({ix.data(), iy.data(), points, left, right}, numbers.data(), n, threads, out.data());
        Numbers all;
        out.append_to(all);
        return all;
    });
    for (std::size_t i = 0; c.tame && i < n; ++i) {
        const std::size_t k = std::size_t(std::upper_bound(x.begin(), x.end(), in[i]) - x.begin());
        const std::size_t from = k ? k - 1 : 0;
        const double slope = k == 0 ? left : k == points ? right : (y[k] - y[k - 1]) / (x[k] - x[k - 1]);
        const double want = y[from] + slope * (in[i] - x[from]);
        check_close(got[i], want, 1e-12 * (1 + std::abs(want)), c.where("broken_line"));
    }
}

void fuzz_philox(Chance& c) {
    const std::size_t rows = c.rows(), words = c.below(4), columns = c.one_of({0, 1, 2, 3, 8, 131});
    const std::uint64_t seed = c.below(1u << 31) * 0x9E3779B97F4A7C15;
    const std::uint32_t stream = std::uint32_t(c.below(1u << 31));
    const auto kind = c.coin() ? Distribution::normal : Distribution::uniform;
    std::vector<std::uint64_t> identity(rows * words);
    for (std::uint64_t& word : identity) word = c.below(1u << 31) << c.below(40);
    const Numbers got = twice(c, [&](bool plain, int threads) {
        Input<std::uint64_t> in(c, identity, plain);
        Output<double> out(c, rows * columns, plain);
        philox_fill(kind, in.data(), rows, words, columns, seed, stream, threads, out.data());
        Numbers all;
        out.append_to(all);
        return all;
    });
    for (std::size_t i = 0; i < rows; ++i) {
        const std::uint64_t hash = hash_identity(identity.data() + i * words, words);
        for (std::size_t k = 0; k < columns; ++k) {
            const double u = uniform_pair(hash, std::uint32_t(k / 2), seed, stream)[k % 2];
            check(got[i * columns + k] == (kind == Distribution::normal ? normal_quantile(u) : u),
                  c.where("philox_fill"));
        }
    }
}

// --- kernel sums

template <class T>
struct Points {
    std::vector<T> x, w;
    std::size_t n;
    int d;
    bool weighted;

    Points(Chance& c, std::size_t rows, int features, double spread)
        : x(c.numbers<T>(rows * features)), w(c.positive<T>(rows)), n(rows), d(features), weighted(c.coin()) {
        const std::size_t clusters = 1 + c.below(3);  // far apart, some of them
        for (std::size_t i = 0; i < x.size(); ++i) x[i] += T(spread * double(i / d % clusters));
        if (!weighted) std::fill(w.begin(), w.end(), T(1));
    }
};

// sum_ij w_i v_j k_ij of the mean of the Gaussians, joint or one feature at a time.
template <class T>
double kernel_sum(const Points<T>& a, const Points<T>& b, const Numbers& sigma, bool per_feature) {
    const int d = a.d, count = int(sigma.size()) / d, parts = per_feature ? d : 1;
    double total = 0;
    for (std::size_t i = 0; i < a.n; ++i) {
        for (std::size_t j = 0; j < b.n; ++j) {
            double k = 0;
            for (int s = 0; s < count; ++s) {
                double square = 0;
                for (int f = 0; f < d; ++f) {
                    const double by = double(a.x[i * d + f]) - double(b.x[j * d + f]);
                    square = by * by / sigma[s * d + f] + (per_feature ? 0 : square);
                    if (per_feature) k += std::exp(-square);
                }
                if (!per_feature) k += std::exp(-square);
            }
            total += double(a.w[i]) * double(b.w[j]) * k / (count * parts);
        }
    }
    return total;
}

template <class T>
void fuzz_mmd(Chance& c) {
    const int d = c.one_of({1, 2, 3, 5, 17, 66}), count = int(1 + c.below(3));
    const std::size_t long_one = c.below(30) ? 0 : 700;  // long enough for threads
    const Points<T> x(c, c.rows() + long_one, d, 40), y(c, c.rows() + long_one, d, 40);
    Numbers sigma(std::size_t(count * d));
    for (int k = 0; k < count * d; ++k) {
        sigma[k] = k >= d && c.coin() ? 2 * sigma[k - d]
                   : c.tame           ? c.uniform(0.5, 3 + d)
                                      : std::abs(c.number<double>());
    }
    const bool per_feature = c.coin(), gradient = c.coin();
    const int wanted = int(c.below(16));
    const auto grouping = Grouping(c.below(3));
    std::optional<double> y_mean;
    if (c.below(4) == 0) y_mean = 0.25;
    const Numbers got = twice(c, [&](bool plain, int threads) {
        Input<T> ix(c, x.x, plain), iy(c, y.x, plain), iw(c, x.w, plain), iv(c, y.w, plain);
        Input<double> is(c, sigma, plain);
        const Sample<T> sx{ix.data(), x.weighted ? iw.data() : nullptr, x.n, d},
            sy{iy.data(), y.weighted ? iv.data() : nullptr, y.n, d};
        const KernelOptions options{{is.data(), count}, per_feature, grouping, threads};
        Output<T> sums(c, x.n, plain), points(c, x.n * d, plain, gradient);
        Output<T> gx(c, x.n * d, plain, wanted & 1), gy(c, y.n * d, plain, wanted & 2), gw(c, x.n, plain, wanted & 4),
            gv(c, y.n, plain, wanted & 8);
        KernelOptions joint = options;
        joint.per_feature = false;
        gaussian_sums<T>({sx.points, nullptr, x.n, d}, sy, joint, {sums.data(), points.data()});
        Numbers all{mmd2<T>(sx, sy, options, 2.0, y_mean, {gx.data(), gy.data(), gw.data(), gv.data()}),
                    kernel_mean<T>(sy, options)};
        for (Output<T>* out : {&sums, &points, &gx, &gy, &gw, &gv}) out->append_to(all);
        return all;
    });
    if (!c.tame || x.n * y.n == 0 || (x.n + y.n) * std::size_t(d) > 2000) return;
    double sw = 0, sv = 0;
    for (T w : x.w) sw += double(w);
    for (T v : y.w) sv += double(v);
    const double yy = kernel_sum(y, y, sigma, per_feature) / (sv * sv), tolerance = pick<T>(1e-5, 1e-12);
    const bool y_side = wanted & 10;
    const double want = kernel_sum(x, x, sigma, per_feature) / (sw * sw) + (y_mean && !y_side ? *y_mean : yy) -
                        2 * kernel_sum(x, y, sigma, per_feature) / (sw * sv);
    // a known mean beside gradients of y is made again
    check_close(got[0], want, tolerance, c.where("mmd2"));
    check_close(got[1], yy, tolerance, c.where("kernel_mean"));
    Points<T> one = x;
    one.n = 1;
    one.w[0] = T(1);
    check_close(got[2], kernel_sum(one, y, sigma, false), tolerance * sv, c.where("gaussian_sums"));
}

// --- densities

template <class T>
void fuzz_kde(Chance& c) {
    const std::size_t n = c.below(30) ? c.rows() : 17'000, F = 1 + c.below(3), G = c.one_of({2, 3, 40, 65, 257, 1025});
    const bool shared = c.coin(), weighted = c.coin();
    const std::vector<T> x = c.numbers<T>(n * F), w = weighted ? c.positive<T>(n) : std::vector<T>(n, T(1)),
                         slope = c.numbers<T>(F * G);
    Numbers b(F), even, any(G * (shared ? 1 : F)), target(F * G, 1 / double(G));
    // none between, where the direct convolution takes minutes
    for (double& width : b)
        width = c.tame ? c.uniform(0.05, 2) : std::pow(10.0, c.coin() ? c.uniform(-300, 0) : c.uniform(8, 300));
    for (std::size_t k = 0; k < any.size(); ++k) even.push_back(-5 + 10 * double(k / (shared ? 1 : F)) / double(G - 1));
    for (double& point : any) {
        const double given = c.number<double>();
        point = std::isfinite(given) ? given : 1e300;
    }
    const int wanted = int(1 + c.below(3));
    const double floor = c.tame ? 1e-9 : std::abs(c.number<double>());
    const std::size_t more = c.below(5);
    const Numbers got = twice(c, [&](bool plain, int threads) {
        Input<T> ix(c, x, plain), iw(c, w, plain), is(c, slope, plain);
        Input<double> ib(c, b, plain), ie(c, even, plain), ia(c, any, plain), it(c, target, plain);
        KdeInput<T> in{ix.data(), weighted ? iw.data() : nullptr, n, F, ia.data(), G, shared, ib.data()};
        Numbers all;
        const auto both = [&](bool binned) {
            Output<T> density(c, F * in.points, plain), points(c, n * F, plain, wanted & 1),
                weights(c, n, plain, wanted & 2);
            (binned ? kde_binned<T> : kde_exact<T>)(in, threads, density.data());
            (binned ? kde_binned_gradients<T> : kde_exact_gradients<T>)(in, density.data(), is.data(), threads,
                                                                        {points.data(), weights.data()});
            for (Output<T>* out : {&density, &points, &weights}) out->append_to(all);
        };
        both(false);
        in.points = c.tame ? 0 : 1;  // a grid of no points or one
        both(false);
        in.points = G;
        in.grid = ie.data();
        try {
            const std::size_t reach = kde_reach<T>(in) + more, bins = G + 2 * reach + 1;
            Output<double> counts(c, F * bins, plain);
            Output<T> points(c, n * F, plain, wanted & 1), weights(c, n, plain, wanted & 2), density(c, F * G, plain),
                slopes(c, F * G, plain);
            kde_counts<T>(in, reach, threads, counts.data());
            kde_counts_gradients<T>(in, reach, counts.data(), threads, {points.data(), weights.data()});
            all.push_back(kde_divergence<T>(in, it.data(), floor, threads, density.data(), slopes.data()));
            counts.append_to(all);
            for (Output<T>* out : {&points, &weights, &density, &slopes}) out->append_to(all);
            both(true);
        } catch (const std::invalid_argument&) {
            check(!c.tame, c.where("kde: an ordinary bandwidth was refused"));
        }
        return all;
    });
    if (!c.tame || n == 0 || n > 300) return;
    double total = 0;
    for (T a : w) total += double(a);
    Numbers want(F * G);
    for (std::size_t f = 0; f < F; ++f) {
        for (std::size_t g = 0; g < G; ++g) {
            for (std::size_t i = 0; i < n; ++i) {
                const double by = (any[shared ? g : g * F + f] - double(x[i * F + f])) / b[f];
                want[f * G + g] += double(w[i]) * std::exp(-0.5 * by * by) / (total * b[f] * 2.5066282746310002);
            }
        }
    }
    check_all(c, got.data(), want, pick<T>(1e-4, 1e-11), "kde_exact");
}

// --- Energy Conserving Descent

template <class T>
void fuzz_ecd(Chance& c) {
    std::vector<std::vector<T>> p, v, g;
    Numbers scale, decay;
    const std::size_t tensors = c.below(5);
    for (std::size_t k = 0; k < tensors; ++k) {
        const std::size_t n = c.below(30) ? c.rows() : 150'001;
        p.push_back(c.numbers<T>(n));
        v.push_back(c.coin() ? c.numbers<T>(n, 0.1) : std::vector<T>(n));
        g.push_back(c.numbers<T>(n));
        scale.push_back(c.tame ? 1 : c.number<double>());
        decay.push_back(c.coin() ? std::abs(c.number<double>(0.01)) : 0.0);
    }
    const EcdRule rule{c.tame ? 0.05 : std::abs(c.number<double>()),
                       1.5,
                       -1,
                       c.coin() ? 0.01 : 0.0,
                       c.coin() ? 1.0 : 0.5,
                       c.coin(),
                       c.below(1u << 31),
                       std::uint32_t(c.below(1u << 31))};
    const double loss = c.number<double>(0.1);
    const Numbers got = twice(c, [&](bool plain, int threads) {
        std::vector<std::unique_ptr<Memory<T>>> memory;
        std::vector<std::unique_ptr<Input<T>>> gradients;
        std::vector<EcdTensor<T>> list;
        for (std::size_t k = 0; k < tensors; ++k) {
            for (const auto* from : {&p[k], &v[k]}) {
                memory.push_back(std::make_unique<Memory<T>>(c, from->size(), plain));
                std::copy(from->begin(), from->end(), memory.back()->data());
            }
            gradients.push_back(std::make_unique<Input<T>>(c, g[k], plain));
            list.push_back({memory[2 * k]->data(), memory[2 * k + 1]->data(), gradients[k]->data(), p[k].size(),
                            scale[k], decay[k]});
        }
        double full = kMark;
        const EcdOutcome outcome = ecd_step<T>(list, loss, rule, threads, &full);
        Numbers all{double(int(outcome)), full};
        for (std::size_t k = 0; k < tensors; ++k) {
            T *to_p = memory[2 * k]->data(), *to_v = memory[2 * k + 1]->data();
            const std::size_t n = p[k].size();
            check(memory[2 * k]->untouched_before() && memory[2 * k + 1]->untouched_before(), c.where("ecd: outside"));
            check(outcome == EcdOutcome::moved || (same_bits(to_p, p[k].data(), n) && same_bits(to_v, v[k].data(), n)),
                  c.where("ecd: a refused step changed something"));
            const auto finite = [&](const T* x) { return std::all_of(x, x + n, [](T a) { return std::isfinite(a); }); };
            if (outcome == EcdOutcome::moved && finite(p[k].data())) {
                check(finite(to_v), c.where("ecd: a step that was not refused made a velocity that is not finite"));
            }
            all.insert(all.end(), to_p, to_p + n);
            all.insert(all.end(), to_v, to_v + n);
        }
        return all;
    });
    std::vector<T> z(c.rows());
    ecd_noise<T>(rule.seed, rule.step, 3, z.size(), z.data());
    const Numbers noise = twice(c, [&](bool plain, int) {
        Output<T> out(c, z.size(), plain);
        ecd_noise<T>(rule.seed, rule.step, 3, z.size(), out.data());
        Numbers all;
        out.append_to(all);
        return all;
    });
    check(std::all_of(noise.begin(), noise.end(), [](double a) { return std::abs(a) < 9; }), c.where("ecd_noise"));
}

// --- networks

template <class T, class U>
MafBlock<U> maf_block(const MafShape& shape, U*& at) {
    MafBlock<U> block{};
    int seen = shape.features;
    const auto take = [&at](std::size_t size) { return (at += size) - size; };
    for (std::size_t layer = 0; layer <= shape.hidden.size(); ++layer) {
        const int units = layer < shape.hidden.size() ? shape.hidden[layer] : kMapOutputs * shape.features;
        block.weights.push_back(take(std::size_t(units) * seen));
        block.biases.push_back(take(std::size_t(units)));
        if (layer == 0 && shape.context) block.context_weight = take(std::size_t(units) * shape.context);
        seen = units;
    }
    return block;
}

template <class T, class U>
std::vector<MafBlock<U>> maf_blocks(const MafShape& shape, U* at) {
    std::vector<MafBlock<U>> out;
    for (int b = 0; b < shape.blocks; ++b) out.push_back(maf_block<T>(shape, at));
    return out;
}

std::size_t maf_size(const MafShape& shape) {
    std::size_t total = 0, seen = shape.features + shape.context;
    for (int units : shape.hidden) {
        total += units * (seen + 1);
        seen = units;
    }
    return (total + kMapOutputs * shape.features * (seen + 1)) * shape.blocks;
}

template <class T>
void fuzz_maf(Chance& c) {
    MafShape shape{c.one_of({1, 2, 3, 6, 9, 17}),
                   c.one_of({0, 0, 1, 2, 5}),
                   int(1 + c.below(3)),
                   {},
                   Activation(c.below(3)),
                   3.0,
                   nullptr};
    for (std::size_t layers = 1 + c.below(3); layers; --layers)
        shape.hidden.push_back(c.one_of({1, 2, 7, 16, 17, 33, 65}));
    const int d = shape.features;
    std::vector<std::int64_t> orders;
    for (int b = 0; b < shape.blocks; ++b) {
        for (int j = 0; j < d; ++j) orders.push_back(b % 2 ? d - 1 - j : (j + b) % d);
    }
    const std::size_t n = c.below(30) ? c.rows() : 700;
    const std::vector<T> flat = c.numbers<T>(maf_size(shape), 0.2), x = c.numbers<T>(n * d),
                         context = c.numbers<T>(n * shape.context), of_out = c.numbers<T>(n * d),
                         of_log_det = c.numbers<T>(n), w = c.numbers<T>(n);
    const auto direction = c.coin() ? Direction::forward : Direction::inverse;
    const int wanted = int(c.below(8));
    const auto run = [&](bool plain, int threads) {
        Input<std::int64_t> io(c, orders, plain);
        Input<T> weights(c, flat, plain);
        Matrix<T> in(c, x, n, d, plain), ic(c, context, n, shape.context, plain), io_gradient(c, of_out, n, d, plain),
            il(c, of_log_det, n, 1, plain), iw(c, w, n, 1, plain);
        MafShape here = shape;
        here.orders = io.data();
        const auto blocks = maf_blocks<T>(here, weights.data());
        Numbers all;
        Output<T> out(c, n * d, plain), log_det(c, n, plain), back(c, n * d, plain), back_log_det(c, n, plain);
        Memory<T> record(c, maf_record_size(here, n, sizeof(T)), plain);
        const Direction other = direction == Direction::forward ? Direction::inverse : Direction::forward;
        maf_apply<T>(direction, here, blocks, n, in.rows, ic.rows, threads, out.data(), log_det.data(), record.data());
        maf_apply<T>(other, here, blocks, n, {out.data(), d, 1}, ic.rows, threads, back.data(), back_log_det.data(),
                     nullptr);
        for (Output<T>* o : {&out, &log_det, &back, &back_log_det}) o->append_to(all);
        check(record.untouched_before(), c.where("maf: before the record"));
        const auto gradients = [&](auto call) {
            Output<T> g(c, n * d, plain, wanted & 1), gc(c, n * shape.context, plain, wanted & 2 && shape.context),
                gw(c, flat.size(), plain, wanted & 4);
            call(g.data(), gc.data(), wanted & 4 ? maf_blocks<T>(here, gw.data()) : std::vector<MafBlock<T>>{});
            for (Output<T>* o : {&g, &gc, &gw}) o->append_to(all);
        };
        gradients([&](T* g, T* gc, const std::vector<MafBlock<T>>& gw) {
            maf_backward<T>(direction, here, blocks, n, record.data(), ic.rows, io_gradient.rows, il.rows, threads, g,
                            gc, gw);
        });
        Output<T> log_prob(c, n, plain), sum(c, 1, plain);
        gradients([&](T* g, T* gc, const std::vector<MafBlock<T>>& gw) {
            maf_likelihood<T>(here, blocks, n, in.rows, ic.rows, iw.rows, threads, log_prob.data(), sum.data(), g, gc,
                              gw);
        });
        for (Output<T>* o : {&log_prob, &sum}) o->append_to(all);
        return all;
    };
    const Numbers got = twice(c, run);
    if (!c.tame) return;
    const double *out = got.data(), *log_det = out + n * d, *back = log_det + n, *log_prob = out + got.size() - n - 1;
    for (std::size_t i = 0; i < n; ++i) {
        double square = 0, size = 1;
        for (int k = 0; k < d; ++k) {
            square += out[i * d + k] * out[i * d + k];
            size = std::max({size, std::abs(out[i * d + k]), std::abs(double(x[i * d + k]))});
        }
        for (int k = 0; k < d; ++k) {  // scales reach exp(3) in each block
            check_close(back[i * d + k], x[i * d + k], pick<T>(3e-2, 1e-9) * size, c.where("maf there and back"));
        }
        const double want = log_det[i] - 0.5 * square - 0.9189385332046727 * d;
        if (direction == Direction::forward) {
            check_close(log_prob[i], want, pick<T>(1e-4, 1e-12) * (1 + square + std::abs(want)),
                        c.where("maf_likelihood"));
        }
    }
}

double activated(Activation kind, double x) {
    return kind == Activation::tanh   ? std::tanh(x)
           : kind == Activation::relu ? std::max(x, 0.0)
           : x > 0                    ? x
                                      : std::expm1(x);
}

template <class T, class U>
MlpLayers<U> mlp_layers(const MlpShape& shape, U* at) {
    MlpLayers<U> out;
    for (int l = 0; l < shape.layers(); ++l) {
        out.weights.push_back(at);
        out.biases.push_back(at += std::ptrdiff_t(shape.widths[l]) * shape.widths[l + 1]);
        at += shape.widths[l + 1];
    }
    return out;
}

// One event, in double.
template <class T>
Numbers mlp_by_hand(const MlpShape& shape, const T* flat, Numbers x) {
    Numbers before;
    for (int l = 1; l <= shape.layers(); ++l) {
        const int seen = shape.widths[l - 1], units = shape.widths[l];
        Numbers next(units);
        for (int u = 0; u < units; ++u) {
            double sum = flat[seen * units + u];
            for (int k = 0; k < seen; ++k) sum += double(flat[u * seen + k]) * x[k];
            if (shape.shortcuts && l > 2 && l % 2 == 1 && l < shape.layers()) sum += before[u];
            const bool sigmoid = shape.output == MlpOutput::sigmoid, linear = shape.output == MlpOutput::linear;
            next[u] = l < shape.layers() ? activated(shape.activation, sum)
                      : linear           ? sum
                      : sigmoid          ? 1 / (1 + std::exp(-sum))
                                         : std::tanh(sum);
        }
        before = x;
        x = next;
        flat += (seen + 1) * units;
    }
    return x;
}

template <class T>
void fuzz_mlp(Chance& c) {
    MlpShape shape{{c.one_of({1, 2, 3, 16, 20})}, Activation(c.below(3)), MlpOutput(c.below(3)), c.coin()};
    for (std::size_t layers = c.below(6); layers; --layers) {
        const std::size_t l = shape.widths.size();
        shape.widths.push_back(shape.shortcuts && l > 2 && l % 2 ? shape.widths[l - 2]
                                                                 : c.one_of({1, 2, 7, 16, 17, 33, 65}));
    }
    shape.widths.push_back(c.one_of({1, 2, 5, 26}));
    std::size_t size = 0;
    for (int l = 0; l < shape.layers(); ++l) size += std::size_t(shape.widths[l] + 1) * shape.widths[l + 1];
    const std::size_t n = c.below(30) ? c.rows() : 700, members = c.below(4);
    const int inputs = shape.widths.front(), outputs = shape.widths.back(), wanted = int(c.below(4));
    const std::uint32_t dropout = c.coin() ? mlp_dropout(c.uniform(0, 0.9)) : 0;
    const bool keeps = c.coin();
    const std::vector<T> flat = c.numbers<T>(members * size, 0.3), x = c.numbers<T>(members * n * inputs),
                         a = c.numbers<T>(members * n * outputs);
    const auto part = [](const std::vector<T>& of, std::size_t e, std::size_t count) {
        return std::vector<T>(of.begin() + std::ptrdiff_t(e * count), of.begin() + std::ptrdiff_t((e + 1) * count));
    };
    const Numbers got = twice(c, [&](bool plain, int threads) {
        Input<T> weights(c, flat, plain);
        std::vector<std::unique_ptr<Matrix<T>>> matrices;
        std::vector<MlpMember<T>> networks;
        std::vector<Rows<const T>> of_out;
        Output<T> out(c, members * n * outputs, plain), g(c, members * n * inputs, plain, wanted & 1),
            gw(c, members * size, plain, wanted & 2);
        std::vector<MlpLayers<T>> to;
        for (std::size_t e = 0; e < members; ++e) {
            matrices.push_back(std::make_unique<Matrix<T>>(c, part(x, e, n * inputs), n, inputs, plain));
            networks.push_back({mlp_layers<T>(shape, weights.data() + e * size), matrices.back()->rows, 5 + e});
            matrices.push_back(std::make_unique<Matrix<T>>(c, part(a, e, n * outputs), n, outputs, plain));
            of_out.push_back(matrices.back()->rows);
            if (wanted & 2) to.push_back(mlp_layers<T>(shape, gw.data() + e * size));
        }
        Memory<T> record(c, keeps ? mlp_record_size(shape, members, n, sizeof(T)) : 0, plain);
        T* const kept = record.size() ? record.data() : nullptr;
        mlp_apply<T>(shape, networks, dropout, n, threads, out.data(), kept);
        mlp_backward<T>(shape, networks, dropout, n, n ? kept : nullptr, of_out, threads, g.data(), to);
        check(record.untouched_before(), c.where("mlp: before the record"));
        Numbers all;
        for (Output<T>* o : {&out, &g, &gw}) o->append_to(all);
        return all;
    });
    if (!c.tame || dropout || n * members > 300) return;
    for (std::size_t i = 0; i < members * n; ++i) {
        const auto from = x.begin() + std::ptrdiff_t(i * inputs);
        const Numbers want = mlp_by_hand(shape, flat.data() + i / n * size, Numbers(from, from + inputs));
        check_all(c, got.data() + i * outputs, want, pick<T>(1e-3, 1e-11), "mlp");
    }
}

struct Case {
    const char* name;
    void (*run)(Chance&);
};
constexpr Case kCases[] = {
    {"broken line", fuzz_broken_line}, {"philox", fuzz_philox},          {"mmd float", fuzz_mmd<float>},
    {"mmd double", fuzz_mmd<double>},  {"kde float", fuzz_kde<float>},   {"kde double", fuzz_kde<double>},
    {"ecd float", fuzz_ecd<float>},    {"ecd double", fuzz_ecd<double>}, {"maf float", fuzz_maf<float>},
    {"maf double", fuzz_maf<double>},  {"mlp float", fuzz_mlp<float>},   {"mlp double", fuzz_mlp<double>},
};

}  // namespace

unsigned fuzz(unsigned seed, unsigned rounds, double seconds) {
    const auto start = std::chrono::steady_clock::now();
    unsigned round = 0;
    for (; round < rounds; ++round) {
        if (std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() > seconds) break;
        const Case& here = kCases[round % std::size(kCases)];
        Chance chance(seed, round, here.name);
        here.run(chance);
    }
    return round;
}

}  // namespace hepgen::tests
