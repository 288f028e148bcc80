// Interface between the PyTorch binding and the per-instruction-set builds of the deformable attention kernel.
#pragma once
#include <cstdint>

namespace segcore {

// Shapes: B images, S tokens of all levels, Q queries, M heads, L levels, P points, N = L * P.
template <class T>
struct MsdaProblem {
  int64_t heads, tokens, queries, levels, points;
  int64_t channels;        // D
  int64_t padded;          // D rounded up to whole vectors
  const int64_t* shapes;   // h0, w0, h1, w1, ...
  const T* value;          // (B, M, S + 1, padded); row S is zero: taps outside the map read it
  const T* points_xy;      // (B, Q, M, N, 2): locations in [0, 1], or pixel offsets if `reference` is set
  const T* weights;        // (B, Q, M, N): weights, or logits if `reference` is set
  const T* reference;      // (B or 1, Q, L, 2), or null
  int64_t reference_step;  // elements between the images of `reference`; 0 shares one
};

template <class T>
struct MsdaGradients {
  const T* output;  // (B, Q, M, D)
  T* value;         // (M, S + 1, padded) of one image and one share of the queries, zeroed
  T* points_xy;     // as the inputs
  T* weights;
};

// One instruction set's functions. Both work on queries [begin, end) of one image and head.
template <class T>
struct MsdaKernels {
  void (*forward)(const MsdaProblem<T>&, int64_t image, int64_t head, int64_t begin, int64_t end, T* output);
  void (*backward)(const MsdaProblem<T>&, int64_t image, int64_t head, int64_t begin, int64_t end,
                   const MsdaGradients<T>&);
};

template <class T>
MsdaKernels<T> msda_kernels_default();
template <class T>
MsdaKernels<T> msda_kernels_avx2();
template <class T>
MsdaKernels<T> msda_kernels_avx512();

}  // namespace segcore
