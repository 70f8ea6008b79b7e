#include "hepgen/parallel.hpp"

#include <algorithm>
#include <new>
#include <system_error>
#include <thread>

namespace hepgen {

void parallel_tasks(int threads, std::size_t count, const std::function<void(std::size_t)>& body) {
    std::atomic<std::size_t> next{0};
    auto work = [&] {
        for (std::size_t task; (task = next.fetch_add(1, std::memory_order_relaxed)) < count;) body(task);
    };
    std::vector<std::thread> helpers;
    const std::size_t wanted = std::min<std::size_t>(threads > 1 ? threads : 1, count);
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
    for (int spins = 0; progress.load(std::memory_order_acquire) < target; ++spins) {
        if (spins > 256) std::this_thread::yield();
    }
}

}  // namespace hepgen
