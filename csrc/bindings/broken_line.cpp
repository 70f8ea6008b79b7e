#include "hepgen/broken_line.hpp"

#include "bindings.hpp"

namespace hepgen::bindings {

void bind_broken_line(py::module_& m) {
    using namespace py::literals;
    m.def(
        "broken_line",
        [](const Array<double>& in, const Array<double>& x, const Array<double>& y, double left, double right,
           int threads) {
            require(in.ndim() == 1, "the numbers must have shape (n,)");
            require(x.ndim() == 1 && y.ndim() == 1 && x.shape(0) == y.shape(0) && x.shape(0) >= 2,
                    "the line needs two points or more, x and y of each");
            Array<double> out(in.shape(0));
            const BrokenLine line{x.data(), y.data(), static_cast<std::size_t>(x.shape(0)), left, right};
            const double* from = in.data();
            double* to = out.mutable_data();
            const auto count = static_cast<std::size_t>(in.shape(0));
            {
                py::gil_scoped_release release;
                broken_line(line, from, count, threads, to);
            }
            return out;
        },
        "in"_a, "x"_a, "y"_a, "left"_a, "right"_a, "threads"_a);
}

}  // namespace hepgen::bindings
