// What the C++ tests share. They check values against plain loops, over awkward sizes, and are run under sanitizers:
// see `make sanitize`. Each suite may be run from several threads at once.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

namespace hepgen::tests {

// One function per op, each in its own file; threads: how many a call may use.
void test_broken_line(int threads);
void test_ecd(int threads);
void test_kde(int threads);
void test_maf(int threads);
void test_mlp(int threads);
void test_mmd(int threads);
void test_philox(int threads);

// fuzz.cpp: so many rounds, or as many as fit into the seconds; a seed gives the same rounds again. Returns how many.
unsigned fuzz(unsigned seed, unsigned rounds, double seconds);

// A failed check ends the run: what follows from wrong numbers says nothing more.
inline void check(bool good, const std::string& what) {
    if (good) return;
    std::fprintf(stderr, "FAILED: %s\n", what.c_str());
    std::exit(1);
}

inline void check_close(double got, double want, double tolerance, const std::string& what) {
    if (std::abs(got - want) <= tolerance) return;
    char line[256];
    std::snprintf(line, sizeof line, ": got %.17g, want %.17g, off by %.3g, allowed %.3g", got, want,
                  std::abs(got - want), tolerance);
    check(false, what + line);
}

template <class T>
void check_close(const std::vector<T>& got, const std::vector<double>& want, double tolerance,
                 const std::string& what) {
    check(got.size() == want.size(), what + ": wrong size");
    for (std::size_t i = 0; i < got.size(); ++i) check_close(got[i], want[i], tolerance, what);
}

class Random {
  public:
    explicit Random(unsigned seed) : engine_(seed) {}

    double normal() { return distribution_(engine_); }

    template <class T>
    std::vector<T> normals(std::size_t n, double scale = 1.0) {
        std::vector<T> out(n);
        for (T& x : out) x = T(scale * normal());
        return out;
    }

  private:
    std::mt19937 engine_;
    std::normal_distribution<double> distribution_;
};

template <class T>
std::vector<double> to_double(const std::vector<T>& x) {
    return {x.begin(), x.end()};
}

template <class T>
constexpr double pick(double for_float, double for_double) {
    return sizeof(T) == 4 ? for_float : for_double;
}

template <class T>
std::string name(const char* op) {
    return std::string(op) + (sizeof(T) == 4 ? " float" : " double");
}

}  // namespace hepgen::tests
