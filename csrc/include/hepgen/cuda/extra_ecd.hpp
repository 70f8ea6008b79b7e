// Loads and stores of 16 bytes, with a word on how soon they are wanted again.
#pragma once

#include <cstring>

#include "hepgen/cuda/device.hpp"

namespace hepgen::cuda {

#ifdef HEPGEN_EMULATED
template <class T>
T __ldcs(const T* at) {
    return *at;
}
template <class T>
T __ldcg(const T* at) {
    return *at;
}
template <class T>
void __stcs(T* at, T x) {
    *at = x;
}
template <class T>
void __stcg(T* at, T x) {
    *at = x;
}
#endif

template <class T>
struct alignas(16) Pack {
    static constexpr int width = 16 / sizeof(T);
    T x[width];
};

template <class T>
HEPGEN_FN Pack<T> pack_of(int4 bits) {
    Pack<T> pack;
    std::memcpy(&pack, &bits, sizeof pack);
    return pack;
}

// In global memory, aligned to 16 bytes; `last`: what nobody reads again, so that it leaves the cache first.
template <bool last, class T>
HEPGEN_FN Pack<T> load_pack(const T* at) {
    const int4* from = reinterpret_cast<const int4*>(at);
    return pack_of<T>(last ? __ldcs(from) : __ldcg(from));
}

template <bool last, class T>
HEPGEN_FN void store_pack(T* at, const Pack<T>& pack) {
    int4 bits;
    std::memcpy(&bits, &pack, sizeof bits);
    if constexpr (last) {
        __stcs(reinterpret_cast<int4*>(at), bits);
    } else {
        __stcg(reinterpret_cast<int4*>(at), bits);
    }
}

// One after the other, of those that are there.
template <class T>
HEPGEN_FN Pack<T> load_some(const T* at, int count) {
    Pack<T> pack;
#pragma unroll
    for (int i = 0; i < Pack<T>::width; ++i) pack.x[i] = i < count ? at[i] : T(0);
    return pack;
}

template <class T>
HEPGEN_FN void store_some(T* at, const Pack<T>& pack, int count) {
#pragma unroll
    for (int i = 0; i < Pack<T>::width; ++i) {
        if (i < count) at[i] = pack.x[i];
    }
}

template <class T>
HEPGEN_FN bool aligned(const T* at) {
    return reinterpret_cast<std::uintptr_t>(at) % sizeof(Pack<T>) == 0;
}

}  // namespace hepgen::cuda
