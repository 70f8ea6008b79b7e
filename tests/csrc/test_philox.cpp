#include "check.hpp"
#include "hepgen/philox.hpp"

namespace hepgen::tests {

void test_philox(int threads) {
    // the known answers of the authors' Random123
    check(philox4x32({0, 0, 0, 0}, 0, 0) == Philox4x32{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
          "philox of zeros");
    constexpr std::uint32_t ones = 0xffffffff;
    check(
        philox4x32({ones, ones, ones, ones}, ones, ones) == Philox4x32{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
        "philox of ones");
    check(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, 0xa4093822, 0x299f31d0) ==
              Philox4x32{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1},
          "philox of pi");
    check_close(normal_quantile(0.975), 1.959963984540054, 1e-14, "normal quantile");
    check_close(normal_quantile(1e-15), -7.941345326170997, 1e-13, "normal quantile of the far tail");
    for (std::size_t rows : {0, 1, 3, 20'000}) {
        for (std::size_t columns : {0, 1, 2, 5}) {
            const std::size_t words = 3;
            std::vector<std::uint64_t> identity(rows * words);
            for (std::size_t i = 0; i < identity.size(); ++i) identity[i] = i * i;
            std::vector<double> uniform(rows * columns), normal(rows * columns);
            philox_fill(Distribution::uniform, identity.data(), rows, words, columns, 7, 1, threads, uniform.data());
            philox_fill(Distribution::normal, identity.data(), rows, words, columns, 7, 1, 1, normal.data());
            double sum = 0;
            for (std::size_t i = 0; i < uniform.size(); ++i) {
                check(uniform[i] > 0 && uniform[i] < 1, "philox: a uniform number is out of range");
                check(normal[i] == normal_quantile(uniform[i]), "philox: normals are the quantiles of the uniforms");
                sum += uniform[i] - 0.5;
            }
            const double spread = std::sqrt(double(uniform.size()) / 12);
            check(std::abs(sum) <= 5 * spread, "philox: the mean of the uniforms");
        }
    }
}

}  // namespace hepgen::tests
