// Threads for one call.
//
// Where an OpenMP runtime has been loaded already, as torch loads one, its threads do the work: a second set would
// compete with them, for they spin for some milliseconds after each of torch's own calls. That runtime does not
// survive fork, so a forked process, and one without such a runtime, starts threads for the call and joins them in it,
// which costs about 20 us. Either way a call may be made from several threads at once, and small work runs serially.
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

// Whether a call made now would borrow its threads.
bool borrows_threads();

// Waits until `progress` reaches `target`, giving the processor away when that takes long.
void wait_until(const std::atomic<unsigned>& progress, unsigned target);

}  // namespace hepgen
