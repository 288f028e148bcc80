// A float32 tensor (N, M, S, D), images x heads x places x channels, as the attention kernels read and write it.
#pragma once
#include <cstdint>

namespace segcore {

// The channels are contiguous; the other strides are free, in elements.
struct HeadTensor {
  float* data;
  int64_t image, head, place;
};

}  // namespace segcore
