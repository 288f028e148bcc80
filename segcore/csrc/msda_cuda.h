// Interface between the PyTorch binding and the CUDA deformable attention kernels (which see no PyTorch header).
#pragma once
#include <cstdint>

namespace segcore {

enum class MsdaType { kFloat, kDouble, kHalf, kBFloat16 };

// As MsdaProblem on the CPU, with the value map as it comes: (B, S, M, D). Pointers are to device memory.
struct MsdaCuda {
  static constexpr int kMaxLevels = 8;
  int64_t batch, tokens, heads, channels, queries;
  int levels, points;
  int height[kMaxLevels], width[kMaxLevels], start[kMaxLevels];
  MsdaType type;          // of value, output and grad
  const void* value;      // (B, S, M, D)
  const void* points_xy;  // (B, Q, M, L, P, 2), float (double for double values), as are weights and reference
  const void* weights;    // (B, Q, M, L, P)
  const void* reference;  // (B or 1, Q, L, 2), or null
  int64_t reference_step; // elements between the images of `reference`; 0 shares one
};

// Each returns the launch's error, 0 (cudaSuccess) if it was accepted. `stream` is a cudaStream_t.
int msda_cuda_forward(const MsdaCuda& p, void* output, void* stream);

// grad_value: (B, S, M, D), zeroed: float (double for double values), or int64 if `fixed_point` is given: a device
// double that scales contributions to integers, whose sum does not depend on the order.
int msda_cuda_backward(const MsdaCuda& p, const void* grad, void* grad_value, void* grad_points, void* grad_weights,
                       const double* fixed_point, void* stream);

const char* msda_cuda_error(int code);

}  // namespace segcore
