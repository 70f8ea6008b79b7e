// Threads for one call: started, joined and gone. A call that starts its own threads survives fork, may be made from
// several threads at once, and leaves nothing spinning; starting one costs about 20 us, so small work runs serially.
#pragma once

#include <atomic>
#include <cstddef>
#include <functional>

namespace hepgen {

// Runs body(0) ... body(count - 1) on at most `threads` threads. Tasks are taken in order, so a task may wait for an
// earlier one. body must not throw.
void parallel_tasks(int threads, std::size_t count, const std::function<void(std::size_t)>& body);

// Waits until `progress` reaches `target`, giving the processor away when that takes long.
void wait_until(const std::atomic<unsigned>& progress, unsigned target);

}  // namespace hepgen
