// What every kernel of csrc/cuda is written against: declarations, launches, and the few instructions that have no name
// in C++. With HEPGEN_EMULATED the same source is plain C++ and runs on the CPU, a block's threads as fibres: see
// emulated.hpp. Every thread of a warp must come to a shuffle, vote or matrix product, every thread of a block to a
// barrier.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>

#include "hepgen/cuda/stream.hpp"

#ifdef HEPGEN_EMULATED
#include "hepgen/cuda/emulated.hpp"
#else
#include <cuda_runtime.h>

#define HEPGEN_KERNEL(threads, blocks) __global__ void __launch_bounds__(threads, blocks)
#define HEPGEN_FN __device__ __forceinline__
#define HEPGEN_SHARED __shared__
#endif

namespace hepgen::cuda {

inline constexpr int kWarp = 32;
inline constexpr unsigned kFullMask = 0xFFFFFFFFu;

#ifndef HEPGEN_EMULATED

struct Grid {
    unsigned x = 1, y = 1, z = 1;
};

inline void check(cudaError_t status, const char* what) {
    if (status != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}

// Dynamic shared memory of the block, aligned to 16 bytes.
template <class T>
HEPGEN_FN T* shared_memory() {
    extern __shared__ __align__(16) unsigned char hepgen_shared[];
    return reinterpret_cast<T*>(hepgen_shared);
}

// Launches on a stream; an error of the launch is thrown, one of the run shows at torch's next synchronisation.
template <class... P, class... A>
void launch(void (*kernel)(P...), Grid grid, unsigned threads, std::size_t shared, Stream stream, A&&... arguments) {
    if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
    if (shared > 48 * 1024) {
        check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   int(shared)),
              "shared memory of a kernel");
    }
    kernel<<<dim3(grid.x, grid.y, grid.z), dim3(threads), shared, static_cast<cudaStream_t>(stream)>>>(
        P(std::forward<A>(arguments))...);
    check(cudaGetLastError(), "launch of a kernel");
}

inline int device_attribute(cudaDeviceAttr attribute) {
    int device = 0, value = 0;
    check(cudaGetDevice(&device), "current device");
    check(cudaDeviceGetAttribute(&value, attribute, device), "attribute of the device");
    return value;
}

// Of the current device.
inline int sm_count() {
    return device_attribute(cudaDevAttrMultiProcessorCount);
}
// Bytes of shared memory that a block may ask for.
inline std::size_t shared_limit() {
    return std::size_t(device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin));
}

// 2^x to 2 units in the last place, denormals as 0; NaN stays NaN.
HEPGEN_FN float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
HEPGEN_FN float rcp_fast(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Copies that other work can overlap: into shared memory, 4, 8 or 16 aligned bytes each.
template <int bytes>
HEPGEN_FN void copy_async(void* to_shared, const void* from_global) {
    static_assert(bytes == 4 || bytes == 8 || bytes == 16);
    const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(to_shared));
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(to), "l"(from_global), "n"(bytes) : "memory");
}
HEPGEN_FN void copy_async_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}
// All but the last `pending` groups have arrived.
template <int pending>
HEPGEN_FN void copy_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

// The nearest number of 11 significant bits, as the matrix units take it.
HEPGEN_FN std::uint32_t to_tf32(float x) {
    std::uint32_t y;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
    return y;
}

// d += a b of 16 x 8 x 8 (tf32) or 16 x 8 x 16 (bfloat16, in pairs), with the fragments of PTX's mma.
HEPGEN_FN void mma_tf32(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
HEPGEN_FN void mma_bf16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

#endif

HEPGEN_FN int lane() {
    return int(threadIdx.x) & (kWarp - 1);
}
HEPGEN_FN int warp() {
    return int(threadIdx.x) / kWarp;
}

HEPGEN_FN float exp_fast(float x) {
    return exp2_fast(x * 1.4426950408889634f);
}

// All lanes get the result; the order of the additions is fixed.
template <class T>
HEPGEN_FN T warp_sum(T x) {
#pragma unroll
    for (int step = kWarp / 2; step > 0; step /= 2) x += __shfl_xor_sync(kFullMask, x, step);
    return x;
}

template <class T>
HEPGEN_FN T warp_max(T x) {
#pragma unroll
    for (int step = kWarp / 2; step > 0; step /= 2) {
        const T other = __shfl_xor_sync(kFullMask, x, step);
        x = other > x ? other : x;
    }
    return x;
}

// Over the threads of a block, a multiple of 32; scratch: 32 numbers of shared memory. All threads get the result.
template <class T>
HEPGEN_FN T block_sum(T x, T* scratch) {
    x = warp_sum(x);
    __syncthreads();
    if (lane() == 0) scratch[warp()] = x;
    __syncthreads();
    T sum = lane() < int(blockDim.x) / kWarp ? scratch[lane()] : T(0);
    return warp_sum(sum);
}

}  // namespace hepgen::cuda
