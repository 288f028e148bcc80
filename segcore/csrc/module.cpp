// The Python module segcore._C: importing it registers the compiled operators with PyTorch.
#include <Python.h>
#include <torch/library.h>

#include "cpu_features.h"

TORCH_LIBRARY(segcore_native, m) {
  m.def("msda_forward(Tensor value, int[] shapes, Tensor? reference, Tensor points, Tensor weights) -> Tensor");
  m.def(
      "msda_backward(Tensor grad, Tensor value, int[] shapes, Tensor? reference, Tensor points, Tensor weights) "
      "-> (Tensor, Tensor, Tensor)");
  m.def(
      "na_forward(Tensor query, Tensor key, Tensor value, int kernel_size, int dilation, Tensor? rpb, float scale) "
      "-> Tensor");
  m.def(
      "na_backward(Tensor grad, Tensor query, Tensor key, Tensor value, int kernel_size, int dilation, Tensor? rpb, "
      "float scale) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "masked_attention(Tensor query, Tensor key, Tensor value, Tensor? bias, Tensor? mask, float scale) -> Tensor");
  m.def("grid_attention(Tensor query, Tensor key, Tensor rows, Tensor columns) -> Tensor");
  m.def(
      "group_norm_(Tensor(a!) x, int groups, Tensor weight, Tensor bias, float eps, bool relu, Tensor? coarse) -> ()");
  m.def("winograd_kernels(Tensor weight) -> Tensor");
  m.def("winograd_spread(Tensor map, int first, int rows, Tensor above, Tensor(a!) output) -> ()");
  m.def("winograd_gather_(Tensor(a!) map, int first, int rows, Tensor[] products) -> ()");
  m.def("mask_window(Tensor masks, Tensor? queries, Tensor[] rows, Tensor[] columns) -> Tensor");
  m.def("compete(Tensor probs, Tensor scores) -> (Tensor, Tensor)");
  m.def("resize_bilinear(Tensor image, int height, int width, int top, int left, int rows, int columns) -> Tensor");
  m.def("resize_nearest(Tensor image, int height, int width, int top, int left, int rows, int columns) -> Tensor");
  m.def("count_pairs(Tensor first, Tensor second) -> Tensor");
  m.def("png_ids(Tensor inflated, int height, int width) -> Tensor");
  m.def("number_labels(Tensor labels, Tensor known) -> (Tensor, int)");
}

// A stamp of the sources (segcore/ops/build.py). Read in the file before it is loaded, and by Python after.
#define SEGCORE_TEXT_OF(word) #word
#define SEGCORE_TEXT(word) SEGCORE_TEXT_OF(word)

PyMODINIT_FUNC PyInit__C() {
  static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_C", "Compiled operators of segcore.", -1, nullptr};
  PyObject* module = PyModule_Create(&definition);
  if (module == nullptr) return nullptr;
  PyModule_AddStringConstant(module, "sources", SEGCORE_TEXT(SEGCORE_SOURCES));
  PyModule_AddStringConstant(module, "instruction_set", segcore::instruction_set_name());
#ifdef SEGCORE_WITH_CUDA
  PyModule_AddIntConstant(module, "with_cuda", 1);
#else
  PyModule_AddIntConstant(module, "with_cuda", 0);
#endif
  return module;
}
