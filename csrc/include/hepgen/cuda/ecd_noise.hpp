// The noise of an ECD step on the device: the bits of csrc/cpu/normal_noise.cpp, which says how numbers are counted.
// Every operation is rounded by itself: nvcc must not contract a * b + c, so the operations are named.
#pragma once

#include <cstddef>
#include <iterator>

#include "hepgen/as241.hpp"
#include "hepgen/cuda/extra_ecd.hpp"
#include "hepgen/philox.hpp"

namespace hepgen::cuda {

namespace exact {

HEPGEN_FN float add(float a, float b) {
    return __fadd_rn(a, b);
}
HEPGEN_FN float sub(float a, float b) {
    return __fsub_rn(a, b);
}
HEPGEN_FN float mul(float a, float b) {
    return __fmul_rn(a, b);
}
HEPGEN_FN float div(float a, float b) {
    return __fdiv_rn(a, b);
}
HEPGEN_FN float root(float a) {
    return __fsqrt_rn(a);
}
HEPGEN_FN double add(double a, double b) {
    return __dadd_rn(a, b);
}
HEPGEN_FN double sub(double a, double b) {
    return __dsub_rn(a, b);
}
HEPGEN_FN double mul(double a, double b) {
    return __dmul_rn(a, b);
}
HEPGEN_FN double div(double a, double b) {
    return __ddiv_rn(a, b);
}
HEPGEN_FN double root(double a) {
    return __dsqrt_rn(a);
}

// Coefficients as constants of the code: the arrays themselves are the host's.
template <const auto& c, std::size_t last = std::size(c) - 1, class T>
HEPGEN_FN T horner(T x) {
    constexpr T here = c[last];
    if constexpr (last == 0) {
        return here;
    } else {
        return add(mul(horner<c, last - 1>(x), x), here);
    }
}

}  // namespace exact

// of the shorter form of AS 241
inline constexpr float kShortCentreTop[] = {5.9109374720e+1f, 1.5929113202e+2f, 5.0434271938e+1f, 3.3871327179e+0f};
inline constexpr float kShortCentreBottom[] = {6.7187563600e+1f, 7.8757757664e+1f, 1.7895169469e+1f, 1.0f};
inline constexpr float kShortTailTop[] = {1.7023821103e-1f, 1.3067284816e+0f, 2.7568153900e+0f, 1.4234372777e+0f};
inline constexpr float kShortTailBottom[] = {1.2021132975e-1f, 7.3700164250e-1f, 1.0f};
inline constexpr float kShortLogSeries[] = {2.0f / 9, 2.0f / 7, 2.0f / 5, 2.0f / 3};

// ln x of normal positive numbers; see log_positive in philox.hpp.
HEPGEN_FN float exact_log(float x) {
    using namespace exact;
    constexpr int half_root = 0x3F3504F3;
    const int shifted = __float_as_int(x) - half_root;
    const float e = float(shifted >> 23);
    const float m = __int_as_float((shifted & 0x7FFFFF) + half_root);
    const float s = div(sub(m, 1.0f), add(m, 1.0f));
    const float s2 = mul(s, s);
    const float tail = add(mul(s, mul(s2, horner<kShortLogSeries>(s2))), mul(e, -2.12194440e-4f));
    return add(add(mul(2.0f, s), tail), mul(e, 0.693359375f));
}

HEPGEN_FN double exact_log(double x) {
    using namespace exact;
    constexpr std::uint64_t half_root = 0x3FE6A09E667F3BCD;
    const std::uint64_t shifted = std::uint64_t(__double_as_longlong(x)) + (0x3FF0000000000000 - half_root);
    const double e = double(int(shifted >> 52) - 1023);
    const double m = __longlong_as_double(static_cast<long long>((shifted & 0x000FFFFFFFFFFFFF) + half_root));
    const double s = div(sub(m, 1.0), add(m, 1.0));
    const double s2 = mul(s, s);
    const double tail = add(mul(s, mul(s2, horner<as241::kLogSeries>(s2))), mul(e, 1.9082149292705877e-10));
    return add(add(mul(2.0, s), tail), mul(e, 0.693147180369123816490));
}

HEPGEN_FN float normal_from(std::uint32_t bits) {
    using namespace exact;
    const float p = add(mul(float(int(bits & 0x7FFFFFFF)), 0x1p-32f), 0x1p-33f);
    const float q = sub(0.5f, p);
    const float c = sub(0.180625f, mul(q, q));
    const float r = sub(root(-exact_log(p)), 1.6f);
    const bool central = q <= 0.425f;
    const float ratio = div(central ? horner<kShortCentreTop>(c) : horner<kShortTailTop>(r),
                            central ? horner<kShortCentreBottom>(c) : horner<kShortTailBottom>(r));
    const float x = central ? mul(q, ratio) : ratio;
    return int(bits) < 0 ? -x : x;
}

HEPGEN_FN double normal_from(std::uint64_t bits) {
    using namespace exact;
    const double q = sub(mul(add(double(static_cast<long long>(bits >> 12)), 0.5), 0x1p-52), 0.5);
    if ((q < 0 ? -q : q) <= as241::kCentreWidth) {
        const double c = sub(as241::kCentreOffset, mul(q, q));
        return mul(q, div(horner<as241::kCentreTop>(c), horner<as241::kCentreBottom>(c)));
    }
    const double tail = q < 0 ? add(q, 0.5) : sub(0.5, q);  // both exact, as q is
    const double r = root(-exact_log(tail));
    double x;
    if (r <= as241::kFar) {
        const double near = sub(r, as241::kNear);
        x = div(horner<as241::kNearTop>(near), horner<as241::kNearBottom>(near));
    } else {
        const double far = sub(r, as241::kFar);
        x = div(horner<as241::kFarTop>(far), horner<as241::kFarBottom>(far));
    }
    return q < 0 ? -x : x;
}

struct NoiseName {
    std::uint64_t seed;
    std::uint64_t tensor;
    std::uint32_t step;
};

// Half a warp makes a group of numbers, 16 bytes of them in each thread, and a thread the words of one of the group's
// 16 blocks; what it makes of them belongs to others, so they change hands in shared memory.
template <class T>
struct NoiseExchange {
    static constexpr int blocks = 16, group = blocks * Pack<T>::width;
    static constexpr int row = group + 64 / int(sizeof(T));  // so that the halves of a warp meet different banks
};

// The numbers from first + 16 bytes * (thread % 16) on; first: of the group. All threads of a warp come here together.
template <class T>
HEPGEN_FN Pack<T> normal_pack(const NoiseName& name, std::int64_t first, T* exchange) {
    using Exchange = NoiseExchange<T>;
    constexpr std::uint32_t stream = 0x45434400;
    const int mine = int(threadIdx.x) % Exchange::blocks;
    const std::uint64_t block = (name.tensor << 40) | std::uint64_t(first / Exchange::group * Exchange::blocks + mine);
    std::uint32_t words[4] = {std::uint32_t(block), std::uint32_t(block >> 32), name.step, stream};
    philox_rounds(words, std::uint32_t(name.seed), std::uint32_t(name.seed >> 32));
    T* row = exchange + int(threadIdx.x) / Exchange::blocks * Exchange::row;
    __syncwarp();
#pragma unroll
    for (int k = 0; k < Pack<T>::width; ++k) {
        if constexpr (sizeof(T) == 4) {
            row[k * Exchange::blocks + mine] = normal_from(words[k]);
        } else {
            row[k * Exchange::blocks + mine] = normal_from(std::uint64_t(words[2 * k + 1]) << 32 | words[2 * k]);
        }
    }
    __syncwarp();
    return *reinterpret_cast<const Pack<T>*>(row + Pack<T>::width * mine);
}

}  // namespace hepgen::cuda
