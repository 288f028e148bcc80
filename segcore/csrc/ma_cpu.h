// Interface between the PyTorch binding and the per-instruction-set builds of attention with a mask or a bias.
#pragma once
#include <cstdint>

#include "head_tensor.h"

namespace segcore {

struct MaProblem {
  int64_t heads, queries, keys, channels;
  float scale;
  HeadTensor query, key, value, output;
  const float* bias;       // (M, S, Q), added to the scores of every image; or null
  const float* added;      // (N, S, Q), added to the scores of every head; or null
  const uint8_t* allowed;  // (N, S, Q), 0 where a query may not look; or null
};

// Queries are taken in blocks; tasks are numbered (image, head, block).
struct MaKernel {
  int64_t (*block)(int64_t queries);  // of how many, when there are so many
  void (*forward)(const MaProblem&, int64_t begin, int64_t end);
};

MaKernel ma_kernel_default();
MaKernel ma_kernel_avx2();
MaKernel ma_kernel_avx512();

}  // namespace segcore
