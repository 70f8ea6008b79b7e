// A strictly rising broken line through given points, with straight tails: what the quantile scalings are made of.
#pragma once

#include <cstddef>

namespace hepgen {

struct BrokenLine {
    const double* x;  // (points,), rising
    const double* y;
    std::size_t points;  // at least 2
    double left, right;  // slopes below x[0] and above x[points - 1]
};

// out[i] = line(in[i]); NaN stays NaN.
void broken_line(const BrokenLine& line, const double* in, std::size_t count, int threads, double* out);

}  // namespace hepgen
