#include "hepgen/parallel.hpp"

#include <algorithm>
#include <new>
#include <system_error>
#include <thread>

#if defined(__linux__)
#include <dlfcn.h>
#include <pthread.h>

#include <cstdio>
#endif

namespace hepgen {
namespace {

constexpr int kMostThreads = 1024;  // GNU's runtime ends the process where the system gives it no more threads

// The entry into a parallel region that GNU's OpenMP runtime defines and LLVM's offers too: body(data) on so many
// threads, fewer where it has no more.
using ParallelRegion = void (*)(void (*body)(void*), void* data, unsigned threads, unsigned flags);

#if defined(__linux__)
// Whether this process is the child of a fork and no exec has followed: the threads its runtime remembers are the
// parent's.
bool born_by_fork() {
    constexpr unsigned forked_no_exec = 0x40;  // PF_FORKNOEXEC of the kernel
    unsigned flags = forked_no_exec;
    if (std::FILE* stat = std::fopen("/proc/self/stat", "r")) {
        // pid (name) state and five numbers; the name may hold anything but ends at the last parenthesis
        char line[512] = {};
        const std::size_t length = std::fread(line, 1, sizeof line - 1, stat);
        std::fclose(stat);
        const char* end = line + length;
        while (end > line && *end != ')') --end;
        if (std::sscanf(end, ") %*c %*d %*d %*d %*d %*d %u", &flags) != 1) flags = forked_no_exec;
    }
    return flags & forked_no_exec;
}

std::atomic<bool> forked{born_by_fork()};
[[maybe_unused]] const int registered = pthread_atfork(nullptr, nullptr, [] { forked = true; });

ParallelRegion lender() {
    static std::atomic<void*> found{nullptr};
    if (forked.load(std::memory_order_relaxed)) return nullptr;
    void* symbol = found.load(std::memory_order_relaxed);
    if (!symbol) {
        symbol = dlsym(RTLD_DEFAULT, "GOMP_parallel");
        found.store(symbol, std::memory_order_relaxed);
    }
    return reinterpret_cast<ParallelRegion>(symbol);
}
#else
ParallelRegion lender() {
    return nullptr;
}
#endif

void relax() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

}  // namespace

bool borrows_threads() {
    return lender() != nullptr;
}

void parallel_tasks(int threads, std::size_t count, const std::function<void(std::size_t)>& body) {
    std::atomic<std::size_t> next{0};
    auto work = [&] {
        for (std::size_t task; (task = next.fetch_add(1, std::memory_order_relaxed)) < count;) body(task);
    };
    const std::size_t wanted = std::min<std::size_t>(std::clamp(threads, 1, kMostThreads), count);
    if (wanted <= 1) return work();
    if (const ParallelRegion region = lender()) {
        region([](void* data) { (*static_cast<decltype(work)*>(data))(); }, &work, static_cast<unsigned>(wanted), 0);
        return;
    }
    std::vector<std::thread> helpers;
    try {
        for (std::size_t i = 1; i < wanted; ++i) helpers.emplace_back(work);
    } catch (const std::system_error&) {
        // the system gives no more threads: those that started, and this one, do the work
    }
    work();
    for (auto& helper : helpers) helper.join();
}

void parallel_stages(int threads, const std::vector<Stage>& stages) {
    std::atomic<unsigned> done{0};
    std::atomic<bool> failed{false};
    std::size_t count = 0;
    for (const Stage& stage : stages) count += stage.count;
    parallel_tasks(threads, count, [&](std::size_t task) {
        std::size_t before = 0;
        const Stage* stage = stages.data();
        while (task - before >= stage->count) before += stage++->count;
        wait_until(done, unsigned(before));  // tasks are taken in order: all that are counted belong to earlier stages
        try {
            if (!failed) stage->body(task - before);
        } catch (const std::bad_alloc&) {
            failed = true;
        }
        done.fetch_add(1, std::memory_order_acq_rel);
    });
    if (failed) throw std::bad_alloc();
}

void wait_until(const std::atomic<unsigned>& progress, unsigned target) {
    // some 20 us: on a busy machine who yields is gone for milliseconds, and most waits are shorter than a task
    constexpr int patience = 1000;
    for (int spins = 0; progress.load(std::memory_order_acquire) < target; ++spins) {
        spins < patience ? relax() : std::this_thread::yield();
    }
}

}  // namespace hepgen
