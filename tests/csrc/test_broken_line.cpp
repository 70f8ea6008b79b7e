#include <algorithm>
#include <limits>

#include "check.hpp"
#include "hepgen/broken_line.hpp"

namespace hepgen::tests {
namespace {

double by_hand(const BrokenLine& line, double at) {
    const std::size_t last = line.points - 1;
    if (at < line.x[0]) return line.y[0] + line.left * (at - line.x[0]);
    if (at >= line.x[last]) return line.y[last] + line.right * (at - line.x[last]);
    std::size_t k = 0;
    while (at >= line.x[k + 1]) ++k;
    return line.y[k] + (line.y[k + 1] - line.y[k]) / (line.x[k + 1] - line.x[k]) * (at - line.x[k]);
}

}  // namespace

void test_broken_line(int threads) {
    for (std::size_t points : {2, 3, 64, 1001}) {
        Random random{unsigned(points)};
        auto x = random.normals<double>(points), y = random.normals<double>(points);
        std::sort(x.begin(), x.end());
        std::sort(y.begin(), y.end());
        const BrokenLine line{x.data(), y.data(), points, 0.5, 2.0};
        for (std::size_t n : {0, 1, 15, 17, 40000}) {
            auto in = random.normals<double>(n, 2.0);
            for (std::size_t i = 0; i < std::min(n, points); i += 3) in[i] = x[i];  // at the points themselves
            std::vector<double> out(n), want;
            for (double at : in) want.push_back(by_hand(line, at));
            broken_line(line, in.data(), n, threads, out.data());
            check_close(out, want, 1e-9, "broken_line");
        }
        const double nan = std::numeric_limits<double>::quiet_NaN();
        double out = 0;
        broken_line(line, &nan, 1, threads, &out);
        check(std::isnan(out), "broken_line: NaN must stay NaN");
    }
}

}  // namespace hepgen::tests
