// Sums in shared memory by 32-bit address, of which the compiler makes a pointer again before every one; and stores of
// 16 bytes that it leaves whole.
#pragma once

#include "hepgen/cuda/device.hpp"

namespace hepgen::cuda {

#ifdef HEPGEN_EMULATED

using SharedAddress = unsigned char*;

template <class T>
SharedAddress shared_address(T* at) {
    return reinterpret_cast<SharedAddress>(at);
}
inline unsigned add_shared(SharedAddress at, unsigned x) {
    return atomicAdd(reinterpret_cast<unsigned*>(at), x);
}
inline void count_if_less(SharedAddress at, unsigned x, unsigned limit) {
    if (x < limit) atomicAdd(reinterpret_cast<unsigned*>(at), 1u);
}
template <class T>
T load_shared(SharedAddress at) {
    return *reinterpret_cast<T*>(at);
}

inline void store_whole(float* to, const float (&x)[4]) {
    for (int i = 0; i < 4; ++i) to[i] = x[i];
}
inline void store_whole(double* to, const double (&x)[4]) {
    for (int i = 0; i < 4; ++i) to[i] = x[i];
}

#else

HEPGEN_FN void store_whole(float* to, const float (&x)[4]) {
    __stcg(reinterpret_cast<float4*>(to), make_float4(x[0], x[1], x[2], x[3]));
}
HEPGEN_FN void store_whole(double* to, const double (&x)[4]) {
    __stcg(reinterpret_cast<double2*>(to), make_double2(x[0], x[1]));
    __stcg(reinterpret_cast<double2*>(to + 2), make_double2(x[2], x[3]));
}

using SharedAddress = unsigned;

template <class T>
HEPGEN_FN SharedAddress shared_address(T* at) {
    return static_cast<unsigned>(__cvta_generic_to_shared(at));
}

// Returns what was there.
HEPGEN_FN unsigned add_shared(SharedAddress at, unsigned x) {
    unsigned old;
    asm volatile("atom.shared.add.u32 %0, [%1], %2;" : "=r"(old) : "r"(at), "r"(x) : "memory");
    return old;
}

// Adds one where x < limit.
HEPGEN_FN void count_if_less(SharedAddress at, unsigned x, unsigned limit) {
    asm volatile("{\n.reg .pred p;\nsetp.lt.u32 p, %1, %2;\n@p red.shared.add.u32 [%0], 1;\n}" ::"r"(at), "r"(x),
                 "r"(limit)
                 : "memory");
}

template <class T>
HEPGEN_FN T load_shared(SharedAddress at) {
    T x;
    if constexpr (sizeof(T) == 4) {
        asm volatile("ld.shared.f32 %0, [%1];" : "=f"(x) : "r"(at));
    } else {
        asm volatile("ld.shared.f64 %0, [%1];" : "=d"(x) : "r"(at));
    }
    return x;
}

#endif

}  // namespace hepgen::cuda
