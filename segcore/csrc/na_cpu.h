// Interface between the PyTorch binding and the per-instruction-set builds of the neighbourhood attention kernel.
#pragma once
#include <cstdint>

namespace segcore {

// A map of heads x height x width pixels with `channels` channels each, row-major and contiguous.
template <class T>
struct NaProblem {
  int64_t heads, height, width, channels;
  int64_t kernel, dilation;
  T scale;
  const T *query, *key, *value;  // (B * M, H, W, D)
  const T* rpb;                  // (M, 2K - 1, 2K - 1), or null
};

template <class T>
struct NaGradients {
  const T* output;  // (B * M, H, W, D)
  T *query, *key, *value;
  T* rpb;  // (2K - 1, 2K - 1) of this task alone, zeroed; or null
};

// A task is one dilation group of one head of one image: the pixels of one residue (top, left) modulo the dilation,
// which attend to each other only. `map` is image * heads + head. The forward pass may be split by rows of the group.
template <class T>
struct NaKernels {
  void (*forward)(const NaProblem<T>&, int64_t map, int64_t top, int64_t left, int64_t begin, int64_t end, T* output);
  void (*backward)(const NaProblem<T>&, int64_t map, int64_t top, int64_t left, const NaGradients<T>&);
};

template <class T>
NaKernels<T> na_kernels_default();
template <class T>
NaKernels<T> na_kernels_avx2();
template <class T>
NaKernels<T> na_kernels_avx512();

}  // namespace segcore
