// Runs every suite serially, with threads, and from several threads at once, in every instruction set that was built,
// and some rounds of fuzzing. hepgen_tests fuzz SECONDS [SEED] makes rounds alone, for so long in each instruction set.
#include <cstring>
#include <limits>
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
#ifdef __SANITIZE_THREAD__
constexpr unsigned kRounds = 0;  // of fuzzing, which is about memory: the suites have threads enough
#else
constexpr unsigned kRounds = 120;  // two seconds under the address sanitizer
#endif

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

void fuzz(const char* isa, unsigned seed, unsigned rounds, double seconds) {
    std::printf("%s fuzz with seed %u: %u rounds\n", isa, seed, hepgen::tests::fuzz(seed, rounds, seconds));
    std::fflush(stdout);
}

}  // namespace

int main(int count, char** arguments) {
    const bool only_fuzz = count > 2 && std::strcmp(arguments[1], "fuzz") == 0;
    for (hepgen::Isa isa : hepgen::available_isas()) {
        hepgen::set_active_isa(hepgen::isa_name(isa));
        if (only_fuzz) {
            const unsigned seed = count > 3 ? unsigned(std::atoi(arguments[3])) : 1;
            fuzz(hepgen::isa_name(isa), seed, std::numeric_limits<unsigned>::max(), std::atof(arguments[2]));
            continue;
        }
        for (const Suite& suite : kSuites) {
            for (int threads : {1, 3}) suite.run(threads);
            std::printf("%s %s: ok\n", hepgen::isa_name(isa), suite.name);
            std::fflush(stdout);
        }
        run_from_several_threads();
        std::printf("%s from %d threads at once: ok\n", hepgen::isa_name(isa), kCallers);
        fuzz(hepgen::isa_name(isa), 1, kRounds, 60);
    }
    return 0;
}
