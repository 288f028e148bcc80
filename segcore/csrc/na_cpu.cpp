// PyTorch binding of the CPU neighbourhood attention: checks and threads.
#include "na_cpu.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include <type_traits>

#include "cpu_features.h"

namespace segcore {
namespace {

constexpr int64_t kTasksPerThread = 4;  // enough to even out groups of different sizes

// In the dtype that the kernel computes in, each pixel's channels side by side.
at::Tensor readable(const at::Tensor& x, at::ScalarType dtype) {
  const auto y = x.to(dtype);
  return y.size(-1) == 1 || y.stride(-1) == 1 ? y : y.contiguous();
}

template <class T, class U>
NaTensor<T> view_of(const U& x) {
  return {x.template data_ptr<std::remove_const_t<T>>(), x.stride(0), x.stride(1), x.stride(2), x.stride(3)};
}

// Inputs checked and in the dtype that the kernel computes in.
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
    query = readable(query_in, dtype), key = readable(key_in, dtype), value = readable(value_in, dtype);
    if (rpb_in.has_value()) {
      const int64_t side = 2 * kernel - 1;
      TORCH_CHECK(rpb_in->dim() == 3 && rpb_in->size(0) == heads && rpb_in->size(1) == side && rpb_in->size(2) == side,
                  "neighborhood_attention_2d: rpb ", rpb_in->sizes(), ", expected (M, 2K - 1, 2K - 1)");
      rpb = rpb_in->to(dtype).contiguous();
    }
  }

  template <class T>
  NaProblem<T> problem() const {
    return {heads,
            height,
            width,
            channels,
            kernel,
            dilation,
            T(scale),
            view_of<const T>(query),
            view_of<const T>(key),
            view_of<const T>(value),
            rpb.defined() ? rpb.data_ptr<T>() : nullptr};
  }
};

template <class T>
at::Tensor forward_typed(const Inputs& in) {
  auto output = at::empty(in.query.sizes(), in.query.options());
  if (output.numel() == 0) return output;
  const auto p = in.problem<T>();
  const auto kernel = SEGCORE_BUILD_OF(na_kernels, <T>)().forward;
  const auto target = view_of<T>(output);
  const int64_t tasks = in.batch * in.heads * in.dilation * in.dilation;
  const int64_t rows = (in.height + in.dilation - 1) / in.dilation;
  // few heads on many cores: split the rows too, but not so thin that packing the keys counts
  const int64_t wanted = (kTasksPerThread * at::get_num_threads() + tasks - 1) / tasks;
  const int64_t bands = std::max<int64_t>(1, std::min(wanted, rows / in.kernel));
  at::parallel_for(0, tasks * bands, 1,
                   [&](int64_t begin, int64_t end) { kernel(p, bands, begin, end, target); });
  return output;
}

template <class T>
void backward_typed(const Inputs& in, const at::Tensor& grad, at::Tensor& grad_query, at::Tensor& grad_key,
                    at::Tensor& grad_value, at::Tensor& grad_rpb) {
  const auto p = in.problem<T>();
  const auto kernel = SEGCORE_BUILD_OF(na_kernels, <T>)().backward;
  const int64_t groups = in.dilation * in.dilation, side = 2 * in.kernel - 1;
  // one bias table per task, added up in a fixed order: no atomics, and the same sum every time
  at::Tensor tables;
  if (in.rpb.defined()) tables = at::zeros({in.batch, in.heads, groups, side, side}, in.query.options());
  const NaGradients<T> grads{view_of<const T>(grad), view_of<T>(grad_query), view_of<T>(grad_key),
                             view_of<T>(grad_value), tables.defined() ? tables.data_ptr<T>() : nullptr};
  at::parallel_for(0, in.batch * in.heads * groups, 1,
                   [&](int64_t begin, int64_t end) { kernel(p, begin, end, grads); });
  if (tables.defined()) grad_rpb = tables.sum(at::IntArrayRef({0, 2}));
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
  const auto grad = readable(grad_in, in.query.scalar_type());
  auto grad_query = at::zeros(in.query.sizes(), in.query.options());
  auto grad_key = at::zeros(in.query.sizes(), in.query.options());
  auto grad_value = at::zeros(in.query.sizes(), in.query.options());
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
