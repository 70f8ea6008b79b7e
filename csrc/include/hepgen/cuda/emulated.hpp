// CUDA C++ on the CPU, for tests where there is no GPU: the threads of a block are fibres that give way at barriers,
// blocks run one after the other. Only device.hpp includes this.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <type_traits>
#include <vector>

#define HEPGEN_KERNEL(threads, blocks) void
#define HEPGEN_FN inline
#define HEPGEN_SHARED static
#define threadIdx (::hepgen::cuda::emulated::block().thread_index())
#define blockIdx (::hepgen::cuda::emulated::block().block_index)
#define blockDim (::hepgen::cuda::emulated::block().block_size)
#define gridDim (::hepgen::cuda::emulated::block().grid_size)

struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(16) double2 {
    double x, y;
};
struct alignas(8) int2 {
    int x, y;
};
struct alignas(16) int4 {
    int x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
inline float2 make_float2(float x, float y) {
    return {x, y};
}
inline float4 make_float4(float x, float y, float z, float w) {
    return {x, y, z, w};
}
inline double2 make_double2(double x, double y) {
    return {x, y};
}
inline int2 make_int2(int x, int y) {
    return {x, y};
}
inline int4 make_int4(int x, int y, int z, int w) {
    return {x, y, z, w};
}
inline uint2 make_uint2(unsigned x, unsigned y) {
    return {x, y};
}
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) {
    return {x, y, z, w};
}

namespace hepgen::cuda::emulated {

struct Index {
    unsigned x = 0, y = 0, z = 0;
};

// A barrier of so many fibres.
struct Barrier {
    int expected = 0, arrived = 0;
    unsigned generation = 0;
};

struct WarpBuffer {
    std::array<std::array<std::array<std::uint64_t, 6>, 32>, 2>
        words{};  // two, so that one barrier an exchange is enough
};

// The block that runs.
class Block {
  public:
    Index block_index, block_size, grid_size;
    std::vector<unsigned char> shared;

    Index thread_index() const { return {unsigned(current_)}; }
    int thread() const { return current_; }

    void run(const std::function<void()>& kernel);
    void wait(Barrier& barrier);
    Barrier& all() { return all_; }
    Barrier& of_warp() { return warps_[current_ / 32]; }

    // What every lane of the warp gave, `words` of 64 bits each, once all have given.
    template <std::size_t n>
    const std::array<std::array<std::uint64_t, 6>, 32>& exchange(const std::array<std::uint64_t, n>& mine) {
        const int side = sides_[current_] ^= 1;
        auto& words = buffers_[current_ / 32].words[side];
        std::copy_n(mine.begin(), n, words[current_ % 32].begin());
        wait(of_warp());
        return words;
    }

    void left();  // the current fibre has finished

  private:
    int current_ = 0;
    Barrier all_;
    std::vector<Barrier> warps_;
    std::vector<WarpBuffer> buffers_;
    std::vector<int> sides_;
};

Block& block();

template <class T>
std::uint64_t bits_of(T x) {
    std::uint64_t bits = 0;
    std::memcpy(&bits, &x, sizeof x);
    return bits;
}

template <class T>
T from_bits(std::uint64_t bits) {
    T x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

template <class T>
T shuffle(T x, int from) {
    const auto& words = block().exchange<1>({bits_of(x)});
    const int lanes = int(block().block_size.x) - block().thread() / 32 * 32;
    const bool there = from >= 0 && from < 32 && from < lanes;
    return from_bits<T>(words[there ? from : block().thread() % 32][0]);
}

}  // namespace hepgen::cuda::emulated

inline void __syncthreads() {
    auto& block = hepgen::cuda::emulated::block();
    block.wait(block.all());
}
inline void __syncwarp(unsigned = 0) {
    auto& block = hepgen::cuda::emulated::block();
    block.wait(block.of_warp());
}
inline void __threadfence() {}
inline void __threadfence_block() {}

template <class T>
T __shfl_sync(unsigned, T x, int from) {
    return hepgen::cuda::emulated::shuffle(x, from & 31);
}
template <class T>
T __shfl_xor_sync(unsigned, T x, int mask) {
    return hepgen::cuda::emulated::shuffle(x, (hepgen::cuda::emulated::block().thread() % 32) ^ mask);
}
template <class T>
T __shfl_down_sync(unsigned, T x, unsigned delta) {
    return hepgen::cuda::emulated::shuffle(x, hepgen::cuda::emulated::block().thread() % 32 + int(delta));
}
template <class T>
T __shfl_up_sync(unsigned, T x, unsigned delta) {
    return hepgen::cuda::emulated::shuffle(x, hepgen::cuda::emulated::block().thread() % 32 - int(delta));
}
inline unsigned __ballot_sync(unsigned, int vote) {
    auto& block = hepgen::cuda::emulated::block();
    const auto& words = block.exchange<1>({std::uint64_t(vote != 0)});
    const int lanes = std::min(32, int(block.block_size.x) - block.thread() / 32 * 32);
    unsigned votes = 0;
    for (int i = 0; i < lanes; ++i) votes |= unsigned(words[i][0] != 0) << i;
    return votes;
}
inline int __any_sync(unsigned mask, int vote) {
    return __ballot_sync(mask, vote) != 0;
}
inline int __all_sync(unsigned mask, int vote) {
    return __ballot_sync(mask, !vote) == 0;
}

// one fibre at a time: nothing comes between reading and writing
template <class T>
T atomicAdd(T* at, std::type_identity_t<T> x) {
    const T old = *at;
    *at = old + x;
    return old;
}
template <class T>
T atomicMax(T* at, std::type_identity_t<T> x) {
    const T old = *at;
    *at = std::max(old, x);
    return old;
}
template <class T>
T atomicMin(T* at, std::type_identity_t<T> x) {
    const T old = *at;
    *at = std::min(old, x);
    return old;
}
template <class T>
T atomicOr(T* at, std::type_identity_t<T> x) {
    const T old = *at;
    *at = old | x;
    return old;
}
template <class T>
T atomicExch(T* at, std::type_identity_t<T> x) {
    return std::exchange(*at, x);
}
template <class T>
T atomicCAS(T* at, std::type_identity_t<T> expected, std::type_identity_t<T> x) {
    const T old = *at;
    if (old == expected) *at = x;
    return old;
}
inline unsigned atomicInc(unsigned* at, unsigned limit) {
    const unsigned old = *at;
    *at = old >= limit ? 0 : old + 1;
    return old;
}

template <class T>
T __ldg(const T* at) {
    return *at;
}
inline float __fmul_rn(float a, float b) {
    return a * b;
}
inline float __fadd_rn(float a, float b) {
    return a + b;
}
inline float __fsub_rn(float a, float b) {
    return a - b;
}
inline float __fdiv_rn(float a, float b) {
    return a / b;
}
inline float __fsqrt_rn(float a) {
    return std::sqrt(a);
}
inline float __fmaf_rn(float a, float b, float c) {
    return std::fma(a, b, c);
}
inline double __dmul_rn(double a, double b) {
    return a * b;
}
inline double __dadd_rn(double a, double b) {
    return a + b;
}
inline double __dsub_rn(double a, double b) {
    return a - b;
}
inline double __ddiv_rn(double a, double b) {
    return a / b;
}
inline double __dsqrt_rn(double a) {
    return std::sqrt(a);
}
inline unsigned __umulhi(unsigned a, unsigned b) {
    return unsigned(std::uint64_t(a) * b >> 32);
}
inline int __popc(unsigned x) {
    return std::popcount(x);
}
inline int __clz(int x) {
    return std::countl_zero(unsigned(x));
}
inline int __ffs(int x) {
    return x == 0 ? 0 : std::countr_zero(unsigned(x)) + 1;
}
inline int __float_as_int(float x) {
    return std::bit_cast<int>(x);
}
inline unsigned __float_as_uint(float x) {
    return std::bit_cast<unsigned>(x);
}
inline float __int_as_float(int x) {
    return std::bit_cast<float>(x);
}
inline float __uint_as_float(unsigned x) {
    return std::bit_cast<float>(x);
}
inline long long __double_as_longlong(double x) {
    return std::bit_cast<long long>(x);
}
inline double __longlong_as_double(long long x) {
    return std::bit_cast<double>(x);
}
inline float rsqrtf(float x) {
    return 1 / std::sqrt(x);
}

namespace hepgen::cuda {

using std::max;
using std::min;

template <class T>
T* shared_memory() {
    return reinterpret_cast<T*>(emulated::block().shared.data());
}

struct Grid {
    unsigned x = 1, y = 1, z = 1;
};

void emulate(const Grid& grid, unsigned threads, std::size_t shared, const std::function<void()>& kernel);

template <class... P, class... A>
void launch(void (*kernel)(P...), Grid grid, unsigned threads, std::size_t shared, Stream, A&&... arguments) {
    emulate(grid, threads, shared, [&] { kernel(P(arguments)...); });
}

inline int sm_count() {
    return 4;
}
inline std::size_t shared_limit() {
    return 99 * 1024;
}

inline float exp2_fast(float x) {
    const float y = std::exp2(x);
    return y < 0x1p-126f ? 0.0f : y;
}
inline float rcp_fast(float x) {
    return 1 / x;
}

template <int bytes>
void copy_async(void* to, const void* from) {
    static_assert(bytes == 4 || bytes == 8 || bytes == 16);
    std::memcpy(to, from, bytes);
}
inline void copy_async_commit() {}
template <int pending>
void copy_async_wait() {}

inline std::uint32_t to_tf32(float x) {
    const std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
    return std::isfinite(x) ? (bits + 0x1000u) & 0xFFFFE000u : bits;
}

namespace emulated {

inline float tf32(std::uint64_t word) {
    return std::bit_cast<float>(std::uint32_t(word) & 0xFFFFE000u);
}
inline float bf16(std::uint64_t pair, int half) {
    return std::bit_cast<float>(std::uint32_t(pair >> 16 * half) << 16);
}

// d += a b of the warp, of n products each; a(lane, register, part) lies at (row, k) as PTX has it.
template <int depth, class Element>
void mma(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2], Element element) {
    const auto& words = block().exchange<6>({a[0], a[1], a[2], a[3], b[0], b[1]});
    const int mine = block().thread() % 32;
    constexpr int parts = depth / 8;
    for (int i = 0; i < 4; ++i) {
        const int row = mine / 4 + 8 * (i / 2), column = 2 * (mine % 4) + i % 2;
        float sum = d[i];
        for (int k = 0; k < depth; ++k) {
            const int high = k / (4 * parts), quad = k % (4 * parts) / parts, part = k % parts;
            const auto& left = words[row % 8 * 4 + quad];
            const auto& right = words[column * 4 + quad];
            sum += element(left[row / 8 + 2 * high], part) * element(right[4 + high], part);
        }
        d[i] = sum;
    }
}

}  // namespace emulated

inline void mma_tf32(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
    emulated::mma<8>(d, a, b, [](std::uint64_t word, int) { return emulated::tf32(word); });
}
inline void mma_bf16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
    emulated::mma<16>(d, a, b, [](std::uint64_t word, int part) { return emulated::bf16(word, part); });
}

}  // namespace hepgen::cuda
