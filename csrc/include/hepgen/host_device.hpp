// For scalar arithmetic that the CPU and the GPU code share.
#pragma once

#ifdef __CUDACC__
#define HEPGEN_HD __host__ __device__
#else
#define HEPGEN_HD
#endif
