// Threads for one call: started, joined and gone. A call that starts its own threads survives fork, may be made from
// several threads at once, and leaves nothing spinning; starting one costs about 20 us, so small work runs serially.
#pragma once

#include <atomic>
#include <cstddef>
#include <functional>
#include <vector>

namespace hepgen {

// Runs body(0) ... body(count - 1) on at most `threads` threads. Tasks are taken in order, so a task may wait for an
// earlier one. body must not throw.
void parallel_tasks(int threads, std::size_t count, const std::function<void(std::size_t)>& body);

// What a call does one after the other: body(0) ... body(count - 1), in any order, may throw std::bad_alloc.
struct Stage {
    std::size_t count;
    std::function<void(std::size_t)> body;
};

// Runs every stage when the one before it is done, all on the same threads. Throws std::bad_alloc where a task did.
void parallel_stages(int threads, const std::vector<Stage>& stages);

// Waits until `progress` reaches `target`, giving the processor away when that takes long.
void wait_until(const std::atomic<unsigned>& progress, unsigned target);

}  // namespace hepgen
