// A CUDA stream as a plain pointer, so that bindings need no CUDA header.
#pragma once

namespace hepgen::cuda {

using Stream = void*;

}  // namespace hepgen::cuda
