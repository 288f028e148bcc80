// Interface between the PyTorch binding and the per-instruction-set builds of the neighbourhood attention kernel.
#pragma once
#include <cstdint>

namespace segcore {

// A tensor (B, M, H, W, D) whose channels are contiguous; the other strides are free, in elements.
template <class T>
struct NaTensor {
  T* data;
  int64_t image, head, row, column;
};

template <class T>
struct NaProblem {
  int64_t heads, height, width, channels;
  int64_t kernel, dilation;
  T scale;
  NaTensor<const T> query, key, value;
  const T* rpb;  // (M, 2K - 1, 2K - 1), or null
};

template <class T>
struct NaGradients {
  NaTensor<const T> output;
  NaTensor<T> query, key, value;  // zeroed
  T* rpb;                         // (tasks, 2K - 1, 2K - 1), zeroed; or null
};

// Tasks are numbered (image, head, residue of the row, residue of the column): the pixels of one residue modulo the
// dilation attend to each other only. The forward pass may split each into `bands` of rows: (task, band).
template <class T>
struct NaKernels {
  void (*forward)(const NaProblem<T>&, int64_t bands, int64_t begin, int64_t end, const NaTensor<T>& output);
  void (*backward)(const NaProblem<T>&, int64_t begin, int64_t end, const NaGradients<T>&);
};

template <class T>
NaKernels<T> na_kernels_default();
template <class T>
NaKernels<T> na_kernels_avx2();
template <class T>
NaKernels<T> na_kernels_avx512();

}  // namespace segcore
