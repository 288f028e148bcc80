// PyTorch binding of the CPU neighbourhood attention: checks and threads.
#include "na_cpu.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include "cpu_features.h"

namespace segcore {
namespace {

constexpr int64_t kTasksPerThread = 4;  // enough to even out groups of different sizes

template <class T>
NaKernels<T> kernels() {
#if SEGCORE_X86
  switch (instruction_set()) {
    case InstructionSet::kAvx512:
      return na_kernels_avx512<T>();
    case InstructionSet::kAvx2:
      return na_kernels_avx2<T>();
    default:
      break;
  }
#endif
  return na_kernels_default<T>();
}

// Inputs checked, contiguous and in the dtype that the kernel computes in.
struct Inputs {
  at::Tensor query, key, value, rpb;
  int64_t batch, heads, height, width, channels, kernel, dilation;
  double scale;

  Inputs(const at::Tensor& query_in, const at::Tensor& key_in, const at::Tensor& value_in, int64_t kernel_in,
         int64_t dilation_in, const std::optional<at::Tensor>& rpb_in, double scale_in)
      : kernel(kernel_in), dilation(dilation_in), scale(scale_in) {
    TORCH_CHECK(query_in.dim() == 5 && key_in.sizes() == query_in.sizes() && value_in.sizes() == query_in.sizes(),
                "neighborhood_attention_2d: expected query, key, value (B, M, H, W, D); got ", query_in.sizes(), ", ",
                key_in.sizes(), ", ", value_in.sizes());
    batch = query_in.size(0), heads = query_in.size(1), height = query_in.size(2), width = query_in.size(3);
    channels = query_in.size(4);
    TORCH_CHECK(kernel > 0 && kernel % 2 == 1 && dilation > 0 && std::min(height, width) >= kernel * dilation,
                "neighborhood_attention_2d: kernel ", kernel, " (odd) and dilation ", dilation, " do not fit a map of ",
                height, " x ", width);
    const auto dtype = query_in.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    query = query_in.to(dtype).contiguous();
    key = key_in.to(dtype).contiguous();
    value = value_in.to(dtype).contiguous();
    if (rpb_in.has_value()) {
      const int64_t side = 2 * kernel - 1;
      TORCH_CHECK(rpb_in->dim() == 3 && rpb_in->size(0) == heads && rpb_in->size(1) == side && rpb_in->size(2) == side,
                  "neighborhood_attention_2d: rpb ", rpb_in->sizes(), ", expected (M, 2K - 1, 2K - 1)");
      rpb = rpb_in->to(dtype).contiguous();
    }
  }

  template <class T>
  NaProblem<T> problem() const {
    return {heads, height, width, channels, kernel, dilation, T(scale), query.data_ptr<T>(), key.data_ptr<T>(),
            value.data_ptr<T>(), rpb.defined() ? rpb.data_ptr<T>() : nullptr};
  }
};

template <class T>
at::Tensor forward_typed(const Inputs& in) {
  auto output = at::empty_like(in.query);
  if (output.numel() == 0) return output;
  const auto p = in.problem<T>();
  const auto kernel = kernels<T>().forward;
  T* target = output.template data_ptr<T>();
  const int64_t groups = in.dilation * in.dilation, whole = in.batch * in.heads * groups;
  const int64_t rows = (in.height + in.dilation - 1) / in.dilation;
  // few heads on many cores: split the rows too, but not so thin that copying the keys counts
  const int64_t wanted = (kTasksPerThread * at::get_num_threads() + whole - 1) / whole;
  const int64_t bands = std::max<int64_t>(1, std::min(wanted, rows / in.kernel));
  const int64_t step = (rows + bands - 1) / bands;
  at::parallel_for(0, whole * bands, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t band = i % bands, group = i / bands % groups, map = i / bands / groups;
      kernel(p, map, group / in.dilation, group % in.dilation, band * step, (band + 1) * step, target);
    }
  });
  return output;
}

template <class T>
void backward_typed(const Inputs& in, const at::Tensor& grad, at::Tensor& grad_query, at::Tensor& grad_key,
                    at::Tensor& grad_value, at::Tensor& grad_rpb) {
  const auto p = in.problem<T>();
  const auto kernel = kernels<T>().backward;
  const int64_t groups = in.dilation * in.dilation, maps = in.batch * in.heads;
  const int64_t table = (2 * in.kernel - 1) * (2 * in.kernel - 1);
  // one bias table per task, added up in a fixed order: no atomics, and the same sum every time
  at::Tensor tables;
  if (in.rpb.defined()) tables = at::zeros({in.batch, in.heads, groups, table}, in.query.options());
  at::parallel_for(0, maps * groups, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t group = i % groups, map = i / groups;
      const NaGradients<T> grads{grad.data_ptr<T>(), grad_query.data_ptr<T>(), grad_key.data_ptr<T>(),
                                 grad_value.data_ptr<T>(),
                                 tables.defined() ? tables.data_ptr<T>() + i * table : nullptr};
      kernel(p, map, group / in.dilation, group % in.dilation, grads);
    }
  });
  if (tables.defined()) grad_rpb = tables.sum(at::IntArrayRef({0, 2})).view_as(in.rpb);
}

at::Tensor na_forward(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, int64_t kernel,
                      int64_t dilation, const std::optional<at::Tensor>& rpb, double scale) {
  const Inputs in(query, key, value, kernel, dilation, rpb, scale);
  const auto output = in.query.scalar_type() == at::kDouble ? forward_typed<double>(in) : forward_typed<float>(in);
  return output.to(query.scalar_type());
}

// The bias table's gradient is empty where there is no table.
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> na_backward(
    const at::Tensor& grad_in, const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, int64_t kernel,
    int64_t dilation, const std::optional<at::Tensor>& rpb, double scale) {
  const Inputs in(query, key, value, kernel, dilation, rpb, scale);
  TORCH_CHECK(grad_in.sizes() == query.sizes(), "neighborhood_attention_2d: gradient of shape ", grad_in.sizes(),
              ", expected ", query.sizes());
  const auto grad = grad_in.to(in.query.scalar_type()).contiguous();
  auto grad_query = at::zeros_like(in.query), grad_key = at::zeros_like(in.key), grad_value = at::zeros_like(in.value);
  auto grad_rpb = in.rpb.defined() ? at::zeros_like(in.rpb) : at::empty({0}, in.query.options());
  if (in.query.numel() > 0) {
    if (in.query.scalar_type() == at::kDouble)
      backward_typed<double>(in, grad, grad_query, grad_key, grad_value, grad_rpb);
    else
      backward_typed<float>(in, grad, grad_query, grad_key, grad_value, grad_rpb);
  }
  const auto dtype = query.scalar_type();
  return {grad_query.to(dtype), grad_key.to(dtype), grad_value.to(dtype),
          grad_rpb.to(in.rpb.defined() ? rpb->scalar_type() : dtype)};
}

}  // namespace

TORCH_LIBRARY_IMPL(segcore_native, CPU, m) {
  m.impl("na_forward", &na_forward);
  m.impl("na_backward", &na_backward);
}

}  // namespace segcore
