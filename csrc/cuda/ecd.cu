#include <algorithm>

#include "hepgen/cuda/ecd.hpp"
#include "hepgen/cuda/ecd_noise.hpp"

namespace hepgen::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp;
constexpr int kWordsAtOnce = 480;  // arguments of a launch take 4 KB on every driver
constexpr int kSums = 4;

enum Outcome : std::uint64_t { kMoved, kLossTooLow, kNotFinite };  // as hepgen::EcdOutcome

template <class T>
constexpr int kTile = kThreads * Pack<T>::width;

struct Words {
    std::uint64_t word[kWordsAtOnce];
};

struct Sums {
    double vv, vg, gg, pp;

    HEPGEN_FN void add(const Sums& other) {
        vv += other.vv;
        vg += other.vg;
        gg += other.gg;
        pp += other.pp;
    }
};

// w = of_velocity * v - of_gradient * (g + weight_decay * p);  p += time * w;  v = inverse_norm * w + noise
template <class T>
struct Move {
    T of_velocity, of_gradient, time, inverse_norm;
};

struct Layout {
    Sums* pieces;  // (pieces,)
    Sums* totals;  // (tensors,)
    void* moves;   // (tensors,)
};

HEPGEN_FN Layout layout(const EcdPlan& plan) {
    Sums* pieces = reinterpret_cast<Sums*>(plan.workspace);
    return {pieces, pieces + plan.pieces, pieces + plan.pieces + plan.tensors};
}

HEPGEN_FN std::uint64_t& state(const EcdPlan& plan, EcdState which) {
    return plan.state[int(which)];
}

HEPGEN_FN const std::uint64_t* field(const EcdPlan& plan, EcdField which) {
    return plan.table + int(which) * plan.tensors;
}
HEPGEN_FN std::int64_t whole(const EcdPlan& plan, EcdField which, std::int64_t tensor) {
    return std::int64_t(field(plan, which)[tensor]);
}
HEPGEN_FN double real(const EcdPlan& plan, EcdField which, std::int64_t tensor) {
    return __longlong_as_double(static_cast<long long>(field(plan, which)[tensor]));
}
HEPGEN_FN std::int64_t piece_after(const EcdPlan& plan, std::int64_t tensor) {
    return tensor + 1 < plan.tensors ? whole(plan, EcdField::first_piece, tensor + 1) : plan.pieces;
}

HEPGEN_FN double read(const EcdNumber& number) {
    if (number.at == nullptr) return number.factor;
    return number.factor *
           (number.wide ? *static_cast<const double*>(number.at) : *static_cast<const float*>(number.at));
}

template <class T>
struct Piece {
    T* parameter;
    T* velocity;
    const T* gradient;
    int size;
    bool aligned;
    T weight_decay;
    std::int64_t tensor, begin;
};

template <class T>
HEPGEN_FN Piece<T> piece_of(const EcdPlan& plan, std::int64_t index) {
    const std::int64_t k = plan.owner[index];
    const std::int64_t begin = (index - whole(plan, EcdField::first_piece, k)) * plan.piece;
    T* p = reinterpret_cast<T*>(field(plan, EcdField::parameter)[k]) + begin;
    T* v = reinterpret_cast<T*>(field(plan, EcdField::velocity)[k]) + begin;
    const T* g = reinterpret_cast<const T*>(field(plan, EcdField::gradient)[k]) + begin;
    const std::int64_t left = whole(plan, EcdField::size, k) - begin;
    return {p,
            v,
            g,
            int(left < plan.piece ? left : plan.piece),
            aligned(p) && aligned(v) && aligned(g),
            T(real(plan, EcdField::weight_decay, k)),
            k,
            begin};
}

template <bool last, class T>
HEPGEN_FN Pack<T> load(const Piece<T>& piece, const T* from, int at) {
    const int left = piece.size - at;
    return piece.aligned && left >= Pack<T>::width ? load_pack<last>(from + at) : load_some(from + at, left);
}

template <bool last, class T>
HEPGEN_FN void store(const Piece<T>& piece, T* to, int at, const Pack<T>& pack) {
    const int left = piece.size - at;
    if (piece.aligned && left >= Pack<T>::width) {
        store_pack<last>(to + at, pack);
    } else {
        store_some(to + at, pack, left);
    }
}

// --- the first launch: sums

template <bool decayed, class T>
HEPGEN_FN void add(Sums& sums, const Pack<T>& velocity, const Pack<T>& gradient, const Pack<T>& parameter, T decay) {
#pragma unroll
    for (int i = 0; i < Pack<T>::width; ++i) {
        const double v = velocity.x[i], p = parameter.x[i];
        const double g = decayed ? gradient.x[i] + decay * parameter.x[i] : gradient.x[i];
        sums.vv += v * v;
        sums.vg += v * g;
        sums.gg += g * g;
        if constexpr (decayed) sums.pp += p * p;
    }
}

template <bool decayed, class T>
HEPGEN_FN Sums sums_of(const Piece<T>& piece) {
    constexpr int width = Pack<T>::width, together = decayed ? 2 : 4;  // tiles whose loads are under way at once
    Sums sums{};
    int at = int(threadIdx.x) * width;
    const int whole = piece.aligned ? piece.size : 0;
    for (; at + (together - 1) * kTile<T> + width <= whole; at += together * kTile<T>) {
        Pack<T> p[together], v[together], g[together];
#pragma unroll
        for (int k = 0; k < together; ++k) {
            v[k] = load_pack<false>(piece.velocity + at + k * kTile<T>);
            g[k] = load_pack<false>(piece.gradient + at + k * kTile<T>);
            if constexpr (decayed) p[k] = load_pack<false>(piece.parameter + at + k * kTile<T>);
        }
#pragma unroll
        for (int k = 0; k < together; ++k) add<decayed>(sums, v[k], g[k], p[k], piece.weight_decay);
    }
    for (; at < piece.size; at += kTile<T>) {
        Pack<T> p{};
        if constexpr (decayed) p = load<false>(piece, piece.parameter, at);
        const T decay = piece.weight_decay;
        add<decayed>(sums, load<false>(piece, piece.velocity, at), load<false>(piece, piece.gradient, at), p, decay);
    }
    return sums;
}

// The sums of a block, one each in the first lanes of its first warp.
HEPGEN_FN double block_sums(const Sums& sums, double* scratch) {
    const double mine[kSums] = {warp_sum(sums.vv), warp_sum(sums.vg), warp_sum(sums.gg), warp_sum(sums.pp)};
    if (lane() == 0) {
        for (int k = 0; k < kSums; ++k) scratch[kSums * warp() + k] = mine[k];
    }
    __syncthreads();
    double sum = scratch[lane()];
#pragma unroll
    for (int step = kSums; step < kWarp; step *= 2) sum += __shfl_xor_sync(kFullMask, sum, step);
    return sum;
}
static_assert(kSums * kWarps == kWarp);

HEPGEN_FN Sums pieces_added(const Sums* pieces, std::int64_t from, std::int64_t to, int stride) {
    Sums sums{};
    for (; from < to; from += stride) {
        const double* piece = &pieces[from].vv;
        sums.add({__ldcg(piece), __ldcg(piece + 1), __ldcg(piece + 2), __ldcg(piece + 3)});
    }
    return sums;
}

// Every tensor's sums in its scaled coordinates, in a fixed order: of a few pieces by a thread, of some by a warp, of
// many by the block.
HEPGEN_FN void total(const EcdPlan& plan, const Layout& at, double* scratch) {
    const auto keep = [&](std::int64_t k, const Sums& sums) {
        const double scale = real(plan, EcdField::scale, k);
        at.totals[k] = {sums.vv, scale * sums.vg, scale * scale * sums.gg, sums.pp};
    };
    const auto added = [&](std::int64_t k, int first, int stride) {
        return pieces_added(at.pieces, whole(plan, EcdField::first_piece, k) + first, piece_after(plan, k), stride);
    };
    for (std::int64_t i = threadIdx.x; i < plan.few; i += kThreads) {
        const std::int64_t k = whole(plan, EcdField::ranked, i);
        keep(k, added(k, 0, 1));
    }
    for (std::int64_t i = plan.few + warp(); i < plan.some; i += kWarps) {
        const std::int64_t k = whole(plan, EcdField::ranked, i);
        const Sums sums = added(k, lane(), kWarp);
        const Sums all{warp_sum(sums.vv), warp_sum(sums.vg), warp_sum(sums.gg), warp_sum(sums.pp)};
        if (lane() == 0) keep(k, all);
    }
    for (std::int64_t i = plan.some; i < plan.tensors; ++i) {
        const std::int64_t k = whole(plan, EcdField::ranked, i);
        const Sums sums = added(k, int(threadIdx.x), kThreads);
        const double vv = block_sum(sums.vv, scratch), vg = block_sum(sums.vg, scratch);
        const double gg = block_sum(sums.gg, scratch), pp = block_sum(sums.pp, scratch);
        if (threadIdx.x == 0) keep(k, {vv, vg, gg, pp});
    }
    __syncthreads();
}

struct Decision {
    double full_loss;
    std::uint64_t outcome;
};

// From the sums to the moves, by all threads of a block; see decide() in csrc/cpu/ecd.cpp.
template <class T>
HEPGEN_FN Decision decide(const EcdPlan& plan, const EcdRule& rule, double* scratch) {
    const Layout at = layout(plan);
    total(plan, at, scratch);
    double vv = 0, vg = 0, gg = 0, decay = 0;
    for (std::int64_t k = threadIdx.x; k < plan.tensors; k += kThreads) {
        vv += at.totals[k].vv;
        vg += at.totals[k].vg;
        gg += at.totals[k].gg;
        decay += 0.5 * real(plan, EcdField::weight_decay, k) * at.totals[k].pp;
    }
    vv = block_sum(vv, scratch);
    vg = block_sum(vg, scratch);
    gg = block_sum(gg, scratch);
    const double loss = read(rule.loss) + block_sum(decay, scratch);
    const double above = loss - rule.f0;
    if (!std::isfinite(vv) || !std::isfinite(gg) || !std::isfinite(loss)) return {loss, kNotFinite};
    if (!(above > 0)) return {loss, kLossTooLow};
    const double d = double(plan.parameters), eta = rule.eta, q = rule.q, time = read(rule.time_step);
    const double speed = q == 1 ? 1.0 : exp(-0.5 * eta * d * (q - 1) / (d - q) * log(above));
    const double force = time * eta * d / (2 * (d - q) * above);
    const bool begins = vv == 0;
    const double norm = sqrt(begins ? gg : vv);
    const double unit = norm > 0 ? speed / norm : 0.0;
    const double of_gradient = force * speed * speed;
    const auto factor = [&](const Sums& s) {  // of the velocity
        const double along = begins ? -(rule.per_tensor ? s.gg : gg) : rule.per_tensor ? s.vg : vg;
        return unit * (1 + force * (2 - q) * (unit * along));
    };
    double square = 0;
    for (std::int64_t k = threadIdx.x; k < plan.tensors; k += kThreads) {
        const Sums s = at.totals[k];
        const double v = sqrt(begins ? s.gg : s.vv), slope = v > 0 ? (begins ? -s.gg : s.vg) / v : 0.0;
        const double parallel = factor(s) * v - of_gradient * slope, across = s.gg - slope * slope;
        square += parallel * parallel + of_gradient * of_gradient * (across > 0 && !begins ? across : 0.0);
    }
    square = block_sum(square, scratch);
    if (!std::isfinite(square) || !std::isfinite(speed) || speed == 0) return {loss, kNotFinite};
    double bad = 0;
    for (std::int64_t k = threadIdx.x; k < plan.tensors; k += kThreads) {
        const double scale = real(plan, EcdField::scale, k), of_velocity = factor(at.totals[k]);
        const Move<T> move{T(begins ? 0.0 : of_velocity), T(scale * (of_gradient + (begins ? of_velocity : 0.0))),
                           T(scale * time), T(square > 0 ? 1 / sqrt(square) : 0.0)};
        if (!std::isfinite(move.of_velocity) || !std::isfinite(move.of_gradient)) bad = 1;
        static_cast<Move<T>*>(at.moves)[k] = move;
    }
    return {loss, block_sum(bad, scratch) > 0 ? kNotFinite : kMoved};
}

// By one thread. A step after one that was refused does not move either.
HEPGEN_FN void conclude(const EcdPlan& plan, const EcdRule& rule, const Decision& decision) {
    std::uint64_t& outcome = state(plan, EcdState::outcome);
    if (outcome == kMoved) {
        outcome = decision.outcome;
        state(plan, EcdState::loss) = std::uint64_t(__double_as_longlong(decision.full_loss));
    }
    if (outcome != kMoved) ++state(plan, EcdState::refused);
    state(plan, EcdState::step) = rule.step + (rule.steps == nullptr ? 0 : std::uint64_t(*rule.steps));
    state(plan, EcdState::finished) = 0;
}

template <class T>
HEPGEN_KERNEL(kThreads, (sizeof(T) == 4 ? 4 : 3))
sums_kernel(EcdPlan plan, EcdRule rule) {
    HEPGEN_SHARED double scratch[kWarp];
    HEPGEN_SHARED bool last;
    const Piece<T> piece = piece_of<T>(plan, blockIdx.x);
    const Sums sums = piece.weight_decay != T(0) ? sums_of<true>(piece) : sums_of<false>(piece);
    const double mine = block_sums(sums, scratch);
    if (int(threadIdx.x) < kSums) {
        (&layout(plan).pieces[blockIdx.x].vv)[threadIdx.x] = mine;
        __threadfence();
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        unsigned* finished = reinterpret_cast<unsigned*>(&state(plan, EcdState::finished));
        last = atomicAdd(finished, 1u) + 1 == gridDim.x;
        __threadfence();
    }
    __syncthreads();
    if (!last) return;
    const Decision decision = decide<T>(plan, rule, scratch);
    if (threadIdx.x == 0) conclude(plan, rule, decision);
}

// --- the second launch: moves

template <bool bounced, class T>
HEPGEN_FN void move(const Piece<T>& piece, const Move<T>& by, int at, const Pack<T>& noise, T bounce) {
    Pack<T> p = load<true>(piece, piece.parameter, at), v = load<true>(piece, piece.velocity, at);
    const Pack<T> g = load<true>(piece, piece.gradient, at);
    const bool decayed = piece.weight_decay != T(0);  // without it what p is does not matter
#pragma unroll
    for (int i = 0; i < Pack<T>::width; ++i) {
        const T slope = decayed ? g.x[i] + piece.weight_decay * p.x[i] : g.x[i];
        const T w = by.of_velocity * v.x[i] - by.of_gradient * slope;
        p.x[i] += by.time * w;
        v.x[i] = by.inverse_norm * w;
        if constexpr (bounced) v.x[i] += bounce * noise.x[i];
    }
    store<true>(piece, piece.parameter, at, p);
    store<false>(piece, piece.velocity, at, v);
}

template <class T, bool bounced>
HEPGEN_KERNEL(kThreads, 4)
move_kernel(EcdPlan plan, T bounce, std::uint64_t seed) {
    HEPGEN_SHARED T exchange[bounced ? kThreads / NoiseExchange<T>::blocks * NoiseExchange<T>::row : 1];
    if (state(plan, EcdState::outcome) != kMoved) return;
    // backwards: what the first launch read last is still in the cache
    const Piece<T> piece = piece_of<T>(plan, plan.pieces - 1 - std::int64_t(blockIdx.x));
    const Move<T> by = static_cast<const Move<T>*>(layout(plan).moves)[piece.tensor];
    const NoiseName name{seed, std::uint64_t(piece.tensor), std::uint32_t(state(plan, EcdState::step))};
    for (int tile = 0; tile < piece.size; tile += kTile<T>) {
        const int at = tile + int(threadIdx.x) * Pack<T>::width;
        Pack<T> noise{};
        if constexpr (bounced) noise = normal_pack(name, piece.begin + at - at % NoiseExchange<T>::group, exchange);
        if (at < piece.size) move<bounced>(piece, by, at, noise, bounce);
    }
}

// --- the table

HEPGEN_KERNEL(kWordsAtOnce, 1) write_kernel(std::uint64_t* to, Words words, int count) {
    const int i = int(threadIdx.x);
    if (i < count) to[i] = words.word[i];
}

HEPGEN_KERNEL(kThreads, 1) share_kernel(EcdPlan plan) {
    const std::int64_t index = std::int64_t(blockIdx.x) * kThreads + threadIdx.x;
    if (index >= plan.pieces) return;
    std::int64_t low = 0, high = plan.tensors;  // the last tensor whose first piece is not beyond
    while (high - low > 1) {
        const std::int64_t middle = (low + high) / 2;
        (whole(plan, EcdField::first_piece, middle) <= index ? low : high) = middle;
    }
    plan.owner[index] = std::int32_t(low);
}

}  // namespace

std::size_t ecd_workspace(std::int64_t tensors, std::int64_t pieces) {
    return std::size_t(pieces + tensors) * sizeof(Sums) + std::size_t(tensors) * sizeof(Move<double>);
}

std::int64_t ecd_tile(std::size_t size) {
    return size == sizeof(float) ? kTile<float> : kTile<double>;
}

void ecd_write(const EcdPlan& plan, std::int64_t first, const std::uint64_t* words, std::int64_t count, Stream stream) {
    for (std::int64_t at = 0; at < count; at += kWordsAtOnce) {
        const int some = int(std::min<std::int64_t>(kWordsAtOnce, count - at));
        Words part{};
        std::copy_n(words + at, some, part.word);
        launch(write_kernel, Grid{1}, kWordsAtOnce, 0, stream, plan.table + first + at, part, some);
    }
}

void ecd_share(const EcdPlan& plan, Stream stream) {
    launch(share_kernel, Grid{unsigned((plan.pieces + kThreads - 1) / kThreads)}, kThreads, 0, stream, plan);
}

template <class T>
void ecd_step(const EcdPlan& plan, const EcdRule& rule, Stream stream) {
    const Grid grid{unsigned(plan.pieces)};
    launch(sums_kernel<T>, grid, kThreads, 0, stream, plan, rule);
    const auto move = rule.nu > 0 ? move_kernel<T, true> : move_kernel<T, false>;
    launch(move, grid, kThreads, 0, stream, plan, T(rule.nu), rule.seed);
}

template void ecd_step<float>(const EcdPlan&, const EcdRule&, Stream);
template void ecd_step<double>(const EcdPlan&, const EcdRule&, Stream);

}  // namespace hepgen::cuda
