// Memory that starts at a cache line, uninitialised, freed with its owner.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>

#include "hepgen/round_up.hpp"

namespace hepgen {

struct Free {
    void operator()(void* p) const { std::free(p); }
};
template <class T>
using Aligned = std::unique_ptr<T[], Free>;

template <class T>
Aligned<T> allocate(std::size_t count) {
    constexpr std::size_t line = 64;
    void* p = std::aligned_alloc(line, round_up(std::max<std::size_t>(count * sizeof(T), 1), line));
    if (!p) throw std::bad_alloc();
    return Aligned<T>(static_cast<T*>(p));
}

}  // namespace hepgen
