// The fibres of hepgen/cuda/emulated.hpp.
#include <ucontext.h>

#include "hepgen/cuda/device.hpp"

namespace hepgen::cuda {
namespace emulated {
namespace {

constexpr std::size_t kStack = 128 * 1024;

struct Fibres {
    ucontext_t scheduler;
    std::vector<ucontext_t> contexts;
    std::vector<std::vector<unsigned char>> stacks;
    std::vector<char> finished;
    const std::function<void()>* kernel = nullptr;
};

Fibres& fibres() {
    static thread_local Fibres all;
    return all;
}

void enter() {
    (*fibres().kernel)();
    block().left();
}

}  // namespace

Block& block() {
    static thread_local Block running;
    return running;
}

// A block's threads take turns, each until it waits.
void Block::run(const std::function<void()>& kernel) {
    Fibres& f = fibres();
    const int count = int(block_size.x);
    f.kernel = &kernel;
    f.contexts.resize(std::max<std::size_t>(f.contexts.size(), count));
    while (f.stacks.size() < std::size_t(count)) f.stacks.emplace_back(kStack);
    f.finished.assign(count, 0);
    all_ = {count};
    warps_.assign((count + 31) / 32, {});
    for (int i = 0; i < count; ++i) ++warps_[i / 32].expected;
    buffers_.resize(std::max(buffers_.size(), warps_.size()));
    sides_.assign(count, 0);
    for (int i = 0; i < count; ++i) {
        ucontext_t& context = f.contexts[i];
        getcontext(&context);
        context.uc_stack.ss_sp = f.stacks[i].data();
        context.uc_stack.ss_size = kStack;
        context.uc_link = &f.scheduler;
        makecontext(&context, enter, 0);
    }
    for (int running = count; running > 0;) {
        for (int i = 0; i < count; ++i) {
            if (f.finished[i]) continue;
            current_ = i;
            swapcontext(&f.scheduler, &f.contexts[i]);
            running -= f.finished[i];
        }
    }
}

void Block::wait(Barrier& barrier) {
    const unsigned generation = barrier.generation;
    if (++barrier.arrived >= barrier.expected) {
        barrier.arrived = 0;
        ++barrier.generation;
        return;
    }
    const int mine = current_;
    while (barrier.generation == generation) swapcontext(&fibres().contexts[mine], &fibres().scheduler);
}

// Those that have left are not waited for.
void Block::left() {
    fibres().finished[current_] = 1;
    for (Barrier* barrier : {&all_, &of_warp()}) {
        --barrier->expected;
        if (barrier->expected > 0 && barrier->arrived >= barrier->expected) {
            barrier->arrived = 0;
            ++barrier->generation;
        }
    }
}

}  // namespace emulated

void emulate(const Grid& grid, unsigned threads, std::size_t shared, const std::function<void()>& kernel) {
    emulated::Block& block = emulated::block();
    block.block_size = {threads, 1, 1};
    block.grid_size = {grid.x, grid.y, grid.z};
    for (unsigned z = 0; z < grid.z; ++z) {
        for (unsigned y = 0; y < grid.y; ++y) {
            for (unsigned x = 0; x < grid.x; ++x) {
                block.block_index = {x, y, z};
                block.shared.assign(shared, 0xFF);  // what nobody wrote is NaN
                block.run(kernel);
            }
        }
    }
}

}  // namespace hepgen::cuda
