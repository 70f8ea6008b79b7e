// One sum over a kernel matrix, cut into tasks that a parallel loop takes in order. Every result depends on the numbers
// and the instruction set alone: tiles are fixed by the sizes, what a tile adds to is its own or waits for its turn.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <vector>

#include "hepgen/packed.hpp"

namespace hepgen {

template <class T>
class Sweep {
  public:
    // scales: of the Gaussians summed, {1} for one. The samples must outlive the sweep.
    Sweep(const Packed<T>& x, const Packed<T>& y, const std::vector<T>& scales, Mode mode);

    int features() const { return x_.features; }
    std::size_t tasks() const { return tasks_.size(); }
    std::size_t pairs() const { return x_.rows * y_.rows / (symmetric_ ? 2 : 1); }
    void run(std::size_t task, T* scratch);

    // sum_ij wx_i wy_j k_ij
    double total() const;

    // Sums and gradients of the points, in the order of the packed samples: see Tile.
    const double* row(int output = 0) const { return row_.data() + output * x_.stride; }
    const double* column(int output = 0) const { return column_.data() + output * y_.stride; }

  private:
    struct Task {
        std::size_t i, j;
        unsigned row_turn, column_turn;
    };
    struct Range {
        std::size_t begin, end;
    };

    void add_task(std::size_t i, std::size_t j, std::vector<unsigned>& rows, std::vector<unsigned>& columns);
    void order_symmetric();
    void order_rectangle();
    double diagonal(std::size_t block, T* scratch);
    double off_diagonal(const Task& task, T* scratch);
    double near(Range rows, Range columns, T* scratch);
    double tile(TileFunction<T> function, Range rows, Range columns, T* scratch);

    const Packed<T>& x_;
    const Packed<T>& y_;
    std::vector<T> scales_;
    bool symmetric_, grouped_;
    Mode mode_;
    TileFunction<T> tile_, square_tile_;  // of the squares on the diagonal, which hold both halves
    std::size_t x_block_, y_block_, x_blocks_, y_blocks_;
    Boxes<T> x_groups_, y_groups_, x_block_boxes_, y_block_boxes_;  // of grouped samples
    std::vector<Task> tasks_;
    std::vector<double> values_, row_, column_;
    std::unique_ptr<std::atomic<unsigned>[]> x_done_, y_done_;
};

// Runs all of them on one set of threads.
template <class T>
void run_sweeps(const std::vector<Sweep<T>*>& sweeps, int threads);

}  // namespace hepgen
