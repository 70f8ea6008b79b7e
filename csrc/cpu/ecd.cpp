#include "hepgen/ecd.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "hepgen/ecd_tile.hpp"
#include "hepgen/parallel.hpp"

namespace hepgen {
namespace {

constexpr std::size_t kPiece = 16384, kLargePiece = 65536;  // elements of a task: few jumps, and enough tasks to share
constexpr std::size_t kLarge = 4'000'000;                   // elements from which pieces are large
constexpr std::size_t kSerial = 150'000;                    // elements below which a thread costs more than it brings
constexpr std::size_t kNoiseAtOnce = 1024;                  // stays in the first-level cache
static_assert(kPiece % kNoiseGroup == 0 && kLargePiece % kNoiseGroup == 0 && kNoiseAtOnce % kNoiseGroup == 0);

template <class T>
struct Functions {
    EcdSums (*sums)(const EcdPiece<T>&);
    void (*move)(const EcdPiece<T>&, const EcdMove<T>&);
    void (*noise)(const NoiseKey&, std::size_t, std::size_t, T*);
};

template <class T>
Functions<T> functions() {
    switch (active_isa()) {
#ifdef HEPGEN_X86
        case Isa::avx512:
            return {avx512::ecd_sums, avx512::ecd_move, avx512::normal_noise};
        case Isa::avx2:
            return {avx2::ecd_sums, avx2::ecd_move, avx2::normal_noise};
#endif
        default:
            return {baseline::ecd_sums, baseline::ecd_move, baseline::normal_noise};
    }
}

template <class T>
class Step {
  public:
    Step(const std::vector<EcdTensor<T>>& tensors, double loss, const EcdRule& rule)
        : tensors_(tensors), loss_(loss), rule_(rule), use_(functions<T>()), moves_(tensors.size()) {
        for (const EcdTensor<T>& t : tensors) size_ += t.size;
        longest_ = size_ < kLarge ? kPiece : kLargePiece;
        for (std::size_t k = 0; k < tensors.size(); ++k) {
            for (std::size_t at = 0; at < tensors[k].size; at += longest_) pieces_.push_back({k, at});
        }
        sums_.resize(pieces_.size());
    }

    EcdOutcome run(int threads, double* full_loss) {
        const std::size_t count = pieces_.size();
        if (threads <= 1 || size_ < kSerial) {
            for (std::size_t i = 0; i < count; ++i) sum(i);
            decide();
            for (std::size_t i = 0; i < count; ++i) move(count - 1 - i);
        } else {
            // the second pass goes backwards: what the first one read last is still in the caches
            parallel_tasks(threads, 2 * count, [&](std::size_t task) {
                if (task < count) {
                    sum(task);
                    if (summed_.fetch_add(1, std::memory_order_acq_rel) + 1 == count) {
                        decide();
                        decided_.store(1, std::memory_order_release);
                    }
                } else {
                    wait_until(decided_, 1);
                    move(2 * count - 1 - task);
                }
            });
        }
        *full_loss = loss_;
        return outcome_;
    }

  private:
    struct Place {
        std::size_t tensor, begin;
    };

    EcdPiece<T> piece(const Place& place) const {
        const EcdTensor<T>& t = tensors_[place.tensor];
        return {t.parameter + place.begin, t.velocity + place.begin, t.gradient + place.begin,
                std::min(longest_, t.size - place.begin), T(t.weight_decay)};
    }

    void sum(std::size_t index) { sums_[index] = use_.sums(piece(pieces_[index])); }

    void move(std::size_t index) {
        if (outcome_ != EcdOutcome::moved) return;
        const Place place = pieces_[index];
        const EcdPiece<T> whole = piece(place);
        EcdMove<T> by = moves_[place.tensor];
        if (by.bounce == T(0)) return use_.move(whole, by);
        alignas(64) T noise[kNoiseAtOnce];
        by.noise = noise;
        const NoiseKey key{rule_.seed, place.tensor, rule_.step};
        for (std::size_t at = 0; at < whole.size; at += kNoiseAtOnce) {
            EcdPiece<T> part{whole.parameter + at, whole.velocity + at, whole.gradient + at,
                             std::min(kNoiseAtOnce, whole.size - at), whole.weight_decay};
            use_.noise(key, place.begin + at, part.size, noise);
            use_.move(part, by);
        }
    }

    // From the sums to what the second pass does.
    void decide() {
        const std::vector<EcdSums> by_tensor = total_by_tensor();
        double vv = 0, vg = 0, gg = 0;
        for (const EcdSums& s : by_tensor) {
            vv += s.vv;
            vg += s.vg;
            gg += s.gg;
        }
        const double above = loss_ - rule_.f0;
        if (!std::isfinite(vv) || !std::isfinite(gg) || !std::isfinite(loss_)) {
            outcome_ = EcdOutcome::not_finite;
            return;
        }
        if (!(above > 0)) {
            outcome_ = EcdOutcome::loss_too_low;
            return;
        }
        const double d = double(size_), eta = rule_.eta, q = rule_.q;
        const double speed = q == 1 ? 1.0 : std::exp(-0.5 * eta * d * (q - 1) / (d - q) * std::log(above));
        const double force = rule_.time_step * eta * d / (2 * (d - q) * above);
        const bool begins = vv == 0;
        const double norm = std::sqrt(begins ? gg : vv);
        const double unit = norm > 0 ? speed / norm : 0.0;  // u = unit * v
        const double of_gradient = force * speed * speed;
        double square = 0;  // |u|^2 after the kick
        std::vector<double> of_velocity(by_tensor.size());
        for (std::size_t k = 0; k < by_tensor.size(); ++k) {
            const EcdSums s = begins ? EcdSums{by_tensor[k].gg, -by_tensor[k].gg, by_tensor[k].gg, 0} : by_tensor[k];
            const double along = unit * (rule_.per_tensor ? s.vg : begins ? -gg : vg);  // u . grad F
            of_velocity[k] = unit * (1 + force * (2 - q) * along);
            // of the part along v and the part across it, neither of which can cancel
            const double v = std::sqrt(s.vv), slope = v > 0 ? s.vg / v : 0.0;
            const double parallel = of_velocity[k] * v - of_gradient * slope;
            square += parallel * parallel + of_gradient * of_gradient * std::max(s.gg - slope * slope, 0.0);
        }
        if (!std::isfinite(square) || !std::isfinite(speed) || speed == 0) {
            outcome_ = EcdOutcome::not_finite;
            return;
        }
        for (std::size_t k = 0; k < by_tensor.size(); ++k) {
            const double scale = tensors_[k].scale;
            EcdMove<T>& by = moves_[k];
            by.of_velocity = T(begins ? 0.0 : of_velocity[k]);
            by.of_gradient = T(scale * (of_gradient + (begins ? of_velocity[k] : 0.0)));
            by.time = T(scale * rule_.time_step);
            by.inverse_norm = T(square > 0 ? 1 / std::sqrt(square) : 0.0);
            by.bounce = T(rule_.nu);
            for (const T number : {by.of_velocity, by.of_gradient, by.time, by.inverse_norm, by.bounce}) {
                if (!std::isfinite(number)) outcome_ = EcdOutcome::not_finite;
            }
        }
    }

    // In the scaled coordinates; adds the weight decay to the loss.
    std::vector<EcdSums> total_by_tensor() {
        std::vector<EcdSums> totals(tensors_.size());
        for (std::size_t i = 0; i < pieces_.size(); ++i) {
            EcdSums& total = totals[pieces_[i].tensor];
            total.vv += sums_[i].vv;
            total.vg += sums_[i].vg;
            total.gg += sums_[i].gg;
            total.pp += sums_[i].pp;
        }
        for (std::size_t k = 0; k < totals.size(); ++k) {
            const double scale = tensors_[k].scale;
            totals[k].vg *= scale;
            totals[k].gg *= scale * scale;
            loss_ += 0.5 * tensors_[k].weight_decay * totals[k].pp;
        }
        return totals;
    }

    const std::vector<EcdTensor<T>>& tensors_;
    double loss_;
    const EcdRule& rule_;
    const Functions<T> use_;
    std::size_t size_ = 0, longest_;
    std::vector<Place> pieces_;
    std::vector<EcdSums> sums_;
    std::vector<EcdMove<T>> moves_;
    EcdOutcome outcome_ = EcdOutcome::moved;
    std::atomic<std::size_t> summed_{0};
    std::atomic<unsigned> decided_{0};
};

}  // namespace

template <class T>
EcdOutcome ecd_step(const std::vector<EcdTensor<T>>& tensors, double loss, const EcdRule& rule, int threads,
                    double* full_loss) {
    return Step<T>(tensors, loss, rule).run(threads, full_loss);
}

template <class T>
void ecd_noise(std::uint64_t seed, std::uint32_t step, std::uint64_t tensor, std::size_t count, T* out) {
    const auto noise = functions<T>().noise;
    alignas(64) T group[kNoiseGroup];
    for (std::size_t at = 0; at < count; at += kNoiseGroup) {
        noise({seed, tensor, step}, at, kNoiseGroup, group);
        std::copy_n(group, std::min(kNoiseGroup, count - at), out + at);
    }
}

template EcdOutcome ecd_step<float>(const std::vector<EcdTensor<float>>&, double, const EcdRule&, int, double*);
template EcdOutcome ecd_step<double>(const std::vector<EcdTensor<double>>&, double, const EcdRule&, int, double*);
template void ecd_noise<float>(std::uint64_t, std::uint32_t, std::uint64_t, std::size_t, float*);
template void ecd_noise<double>(std::uint64_t, std::uint32_t, std::uint64_t, std::size_t, double*);

}  // namespace hepgen
