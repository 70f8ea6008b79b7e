// Runs every suite serially, with threads, and from several threads at once, in every instruction set that was built.
#include <cstring>
#include <thread>

#include "check.hpp"
#include "hepgen/isa.hpp"

namespace {

struct Suite {
    const char* name;
    void (*run)(int threads);
};

// An op joins with its header's line in check.hpp, its file in CMakeLists.txt and its line here.
constexpr Suite kSuites[] = {
    {"broken_line", hepgen::tests::test_broken_line},
    {"ecd", hepgen::tests::test_ecd},
    {"kde", hepgen::tests::test_kde},
    {"maf", hepgen::tests::test_maf},
    {"mlp", hepgen::tests::test_mlp},
    {"mmd", hepgen::tests::test_mmd},
    {"philox", hepgen::tests::test_philox},
};

constexpr int kCallers = 4;

void run_from_several_threads() {
    std::vector<std::thread> callers;
    for (int c = 0; c < kCallers; ++c) {
        callers.emplace_back([c] {
            // each begins elsewhere, so that different ops meet
            const int count = int(std::size(kSuites));
            for (int i = 0; i < count; ++i) kSuites[(i + c) % count].run(2);
        });
    }
    for (std::thread& caller : callers) caller.join();
}

}  // namespace

int main() {
    for (hepgen::Isa isa : hepgen::available_isas()) {
        hepgen::set_active_isa(hepgen::isa_name(isa));
        for (const Suite& suite : kSuites) {
            for (int threads : {1, 3}) suite.run(threads);
            std::printf("%s %s: ok\n", hepgen::isa_name(isa), suite.name);
            std::fflush(stdout);
        }
        run_from_several_threads();
        std::printf("%s from %d threads at once: ok\n", hepgen::isa_name(isa), kCallers);
    }
    return 0;
}
