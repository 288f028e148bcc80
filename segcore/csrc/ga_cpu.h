// Interface between the PyTorch binding and the per-instruction-set builds of attention to a map whose value at (y, x)
// is rows[y] + columns[x].
#pragma once
#include <cstdint>

#include "head_tensor.h"

namespace segcore {

struct GaProblem {
  int64_t heads, queries, height, width, channels;
  float scale;
  HeadTensor query, key;       // (N, M, Q, D), (N, M, H * W, D)
  const float *rows, *columns;  // (H, M, D), (W, M, D)
  HeadTensor output;           // like the query
};

// Queries are taken in blocks of `block`; tasks are numbered (image, head, part of the blocks).
struct GaKernel {
  int64_t block;
  void (*forward)(const GaProblem&, int64_t parts, int64_t begin, int64_t end);
};

GaKernel ga_kernel_default();
GaKernel ga_kernel_avx2();
GaKernel ga_kernel_avx512();

}  // namespace segcore
