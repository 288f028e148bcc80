// PyTorch's tensors as the attention kernels take them.
#pragma once
#include <ATen/core/Tensor.h>

#include "head_tensor.h"

namespace segcore {

inline at::Tensor with_contiguous_channels(const at::Tensor& x) {
  return x.size(-1) == 1 || x.stride(-1) == 1 ? x : x.contiguous();
}

inline HeadTensor head_view(const at::Tensor& x) {
  return {x.data_ptr<float>(), x.stride(0), x.stride(1), x.stride(2)};
}

}  // namespace segcore
