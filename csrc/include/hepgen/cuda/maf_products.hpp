// Products of a tile's activations, by warps: 16 rows by strips of 8 columns.
//
// In float they run on the matrix units: every factor is the sum of two numbers of 11 significant bits, x = hi + lo,
// and lo lo is left out, which is about 2^-21 of a product. In double they are plain sums, laid out over the lanes
// alike: lane 4 g + t holds rows g and g + 8, which are events 2 g and 2 g + 1, of columns 2 t and 2 t + 1.
#pragma once

#include "hepgen/cuda/device.hpp"

namespace hepgen::cuda {

inline constexpr int kStrip = 3;   // tiles of 8 columns that go together
inline constexpr int kGroup = 16;  // events that a product takes

inline constexpr int kApplyWarps = 8, kBackwardWarps = 8;    // of a thread block at most
inline constexpr int kApplyGroups = 2, kBackwardGroups = 1;  // of events, for a warp

template <class T, int tiles>
using Strip = T[tiles][4];

struct SplitFloat {
    std::uint32_t hi, lo;
};

HEPGEN_FN std::uint32_t bits_of_float(float x) {
    return __float_as_uint(x);
}

// NaN stays in lo, whatever becomes of it in hi.
HEPGEN_FN SplitFloat split(float x) {
    const std::uint32_t hi = (bits_of_float(x) + 0x1000u) & 0xFFFFE000u;
    return {hi, bits_of_float(x - __uint_as_float(hi))};
}

template <int tiles>
struct SplitColumns {
    std::uint32_t hi[tiles][2], lo[tiles][2];

    HEPGEN_FN explicit SplitColumns(const float2 (&b)[tiles]) {
#pragma unroll
        for (int i = 0; i < tiles; ++i) {
            const SplitFloat x = split(b[i].x), y = split(b[i].y);
            hi[i][0] = x.hi;
            lo[i][0] = x.lo;
            hi[i][1] = y.hi;
            lo[i][1] = y.lo;
        }
    }
};

// sums += a b; the two smaller products are summed apart, so that they do not wait for the larger ones.
template <int tiles>
HEPGEN_FN void add_product(Strip<float, tiles>& sums, Strip<float, tiles>& small, const float (&a)[4],
                           const SplitColumns<tiles>& b) {
    std::uint32_t hi[4], lo[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const SplitFloat s = split(a[i]);
        hi[i] = s.hi;
        lo[i] = s.lo;
    }
#pragma unroll
    for (int i = 0; i < tiles; ++i) mma_tf32(small[i], hi, b.lo[i]);
#pragma unroll
    for (int i = 0; i < tiles; ++i) mma_tf32(sums[i], hi, b.hi[i]);
#pragma unroll
    for (int i = 0; i < tiles; ++i) mma_tf32(small[i], lo, b.hi[i]);
}

template <int tiles>
HEPGEN_FN void add(Strip<float, tiles>& sums, const Strip<float, tiles>& small) {
#pragma unroll
    for (int i = 0; i < tiles; ++i) {
#pragma unroll
        for (int r = 0; r < 4; ++r) sums[i][r] += small[i][r];
    }
}

// Weights are packed in tiles of 8 by 8, (units / 8, inputs / 8, 32 lanes, 2): lane 4 g + t has unit g and inputs t, t
// + 4.
HEPGEN_FN int packed_place(int unit, int input, int steps) {
    return (((unit / 8) * steps + input / 8) * kWarp + unit % 8 * 4 + input % 4) * 2 + input % 8 / 4;
}

// sums[group][event][unit] += sum over inputs of 8 begin ... 8 end of seen[input][event] weights[unit][input]
template <int groups, int tiles>
HEPGEN_FN void multiply(float (&sums)[groups][tiles][4], const float* seen, int stride, const float* packed, int steps,
                        int begin, int end) {
    constexpr int ahead = 3;  // steps that the weights are asked for before they are needed: they come from far
    const float2* weights = reinterpret_cast<const float2*>(packed) + begin * kWarp + lane();
    const float* from = seen + (8 * begin + lane() % 4) * stride + lane() / 4 * 2;
    float2 b[ahead][tiles];
    int left = end - begin;
#pragma unroll
    for (int u = 0; u < ahead; ++u) {
        if (u >= left) break;
#pragma unroll
        for (int i = 0; i < tiles; ++i) b[u][i] = __ldg(weights + (i * steps + u) * kWarp);
    }
    float small[groups][tiles][4] = {};
    const auto step = [&](int u) {
        const SplitColumns<tiles> columns(b[u]);
#pragma unroll
        for (int group = 0; group < groups; ++group) {
            const float* at = from + u * 8 * stride + group * kGroup;
            const float2 low = *reinterpret_cast<const float2*>(at),
                         high = *reinterpret_cast<const float2*>(at + 4 * stride);
            const float a[4] = {low.x, low.y, high.x, high.y};
            add_product<tiles>(sums[group], small[group], a, columns);
        }
    };
    for (; left >= ahead; left -= ahead) {
        weights += ahead * kWarp;
#pragma unroll
        for (int u = 0; u < ahead; ++u) {
            step(u);
            if (u + ahead < left) {
#pragma unroll
                for (int i = 0; i < tiles; ++i) b[u][i] = __ldg(weights + (i * steps + u) * kWarp);
            }
        }
        from += ahead * 8 * stride;
    }
#pragma unroll
    for (int u = 0; u < ahead - 1; ++u) {
        if (u < left) step(u);
    }
#pragma unroll
    for (int group = 0; group < groups; ++group) add<tiles>(sums[group], small[group]);
}

template <int groups, int tiles>
HEPGEN_FN void multiply(double (&sums)[groups][tiles][4], const double* seen, int stride, const double* packed,
                        int steps, int begin, int end) {
    const int unit = lane() % 4 * 2;
    for (int k = 8 * begin; k < 8 * end; ++k) {
        const double* from = seen + k * stride + lane() / 4 * 2;
#pragma unroll
        for (int i = 0; i < tiles; ++i) {
            const double* weights = packed + i * steps * kWarp * 2;
            const double w[2] = {__ldg(weights + packed_place(unit, k, steps)),
                                 __ldg(weights + packed_place(unit + 1, k, steps))};
#pragma unroll
            for (int group = 0; group < groups; ++group) {
#pragma unroll
                for (int r = 0; r < 4; ++r)
                    sums[group][i][r] = fma(from[group * kGroup + r / 2], w[r % 2], sums[group][i][r]);
            }
        }
    }
}

// sums[row][column] += sum over events of left[row][event] right[column][event]
template <int tiles>
HEPGEN_FN void multiply_events(Strip<float, tiles>& sums, const float* left, const float* right, int stride,
                               int events) {
    const int offset = lane() / 4 * stride + lane() % 4;
    float small[tiles][4] = {};
#pragma unroll 2
    for (int e = 0; e < events; e += 8) {
        const float* at = left + offset + e;
        const float a[4] = {at[0], at[8 * stride], at[4], at[8 * stride + 4]};
        float2 b[tiles];
#pragma unroll
        for (int i = 0; i < tiles; ++i) {
            const float* other = right + offset + e + i * 8 * stride;
            b[i] = make_float2(other[0], other[4]);
        }
        add_product<tiles>(sums, small, a, SplitColumns<tiles>(b));
    }
    add<tiles>(sums, small);
}

template <int tiles>
HEPGEN_FN void multiply_events(Strip<double, tiles>& sums, const double* left, const double* right, int stride,
                               int events) {
    const double* low = left + lane() / 4 * stride;
    const double* high = low + 8 * stride;
    const double* columns = right + lane() % 4 * 2 * stride;
    for (int e = 0; e < events; ++e) {
#pragma unroll
        for (int i = 0; i < tiles; ++i) {
            const double x = columns[i * 8 * stride + e], y = columns[(i * 8 + 1) * stride + e];
            sums[i][0] = fma(low[e], x, sums[i][0]);
            sums[i][1] = fma(low[e], y, sums[i][1]);
            sums[i][2] = fma(high[e], x, sums[i][2]);
            sums[i][3] = fma(high[e], y, sums[i][3]);
        }
    }
}

// body(Count<tiles>{}) with as many tiles as there are, 1 ... kStrip
template <int value>
struct Count {
    static constexpr int tiles = value;
};

template <class Body>
HEPGEN_FN void with_count(int count, const Body& body) {
    switch (count) {
        case 1:
            return body(Count<1>{});
        case 2:
            return body(Count<2>{});
        default:
            return body(Count<kStrip>{});
    }
}

}  // namespace hepgen::cuda
