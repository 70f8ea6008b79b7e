#include "hepgen/broken_line.hpp"

#include <algorithm>
#include <vector>

#include "hepgen/parallel.hpp"

namespace hepgen {
namespace {

constexpr std::size_t kAtOnce = 16;  // searches side by side: each waits for its own loads, not for the others'
constexpr std::size_t kTask = 16384;

// Per segment: where it begins, the value there, the slope. The tails are segments too.
struct Segments {
    std::vector<double> begin, value, slope;

    explicit Segments(const BrokenLine& line) {
        const std::size_t last = line.points - 1;
        add(line.x[0], line.y[0], line.left);
        for (std::size_t k = 0; k < last; ++k) {
            add(line.x[k], line.y[k], (line.y[k + 1] - line.y[k]) / (line.x[k + 1] - line.x[k]));
        }
        add(line.x[last], line.y[last], line.right);
    }
    void add(double x, double y, double s) {
        begin.push_back(x);
        value.push_back(y);
        slope.push_back(s);
    }
};

// The last segment that begins at or below x, of those from 1 on; 0 where there is none. Every step halves the range
// for all numbers, without a branch to guess.
template <std::size_t count>
void evaluate(const Segments& line, const double* in, double* out) {
    const double* const begin = line.begin.data();
    std::size_t at[count] = {};
    for (std::size_t length = line.begin.size(); length > 1;) {
        const std::size_t half = length / 2;
        for (std::size_t i = 0; i < count; ++i) at[i] += begin[at[i] + half] <= in[i] ? half : 0;
        length -= half;
    }
    for (std::size_t i = 0; i < count; ++i) {
        out[i] = line.value[at[i]] + line.slope[at[i]] * (in[i] - begin[at[i]]);
    }
}

}  // namespace

void broken_line(const BrokenLine& line, const double* in, std::size_t count, int threads, double* out) {
    const Segments segments(line);
    parallel_tasks(threads, (count + kTask - 1) / kTask, [&](std::size_t task) {
        const std::size_t end = std::min(count, (task + 1) * kTask);
        std::size_t i = task * kTask;
        for (; i + kAtOnce <= end; i += kAtOnce) evaluate<kAtOnce>(segments, in + i, out + i);
        for (; i < end; ++i) evaluate<1>(segments, in + i, out + i);
    });
}

}  // namespace hepgen
