// PyTorch binding of attention with a mask or a bias: checks and threads.
#include "ma_cpu.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "cpu_features.h"
#include "head_views.h"

namespace segcore {
namespace {

at::Tensor masked_attention(const at::Tensor& query_in, const at::Tensor& key_in, const at::Tensor& value_in,
                            const std::optional<at::Tensor>& bias, const std::optional<at::Tensor>& mask,
                            double scale) {
  TORCH_CHECK(query_in.dim() == 4 && key_in.dim() == 4 && key_in.sizes() == value_in.sizes(),
              "masked_attention: expected query (N, M, Q, D), key and value (N, M, S, D), got ", query_in.sizes(), ", ",
              key_in.sizes(), " and ", value_in.sizes());
  const int64_t images = query_in.size(0), heads = query_in.size(1), queries = query_in.size(2);
  const int64_t channels = query_in.size(3), keys = key_in.size(2);
  TORCH_CHECK(key_in.sizes() == at::IntArrayRef({images, heads, keys, channels}) && keys > 0 && channels > 0,
              "masked_attention: query ", query_in.sizes(), " and key ", key_in.sizes(), " do not belong together");
  for (const auto* x : {&query_in, &key_in, &value_in})
    TORCH_CHECK(x->scalar_type() == at::kFloat, "masked_attention: expected float32, got ", x->scalar_type());
  const auto query = with_contiguous_channels(query_in), key = with_contiguous_channels(key_in);
  const auto value = with_contiguous_channels(value_in);
  // in memory (N, Q, M, D): the heads are joined without a copy
  auto output = at::empty({images, queries, heads, channels}, query.options()).transpose(1, 2);
  MaProblem p{heads, queries, keys, channels, float(scale), head_view(query), head_view(key), head_view(value),
              head_view(output), nullptr, nullptr, nullptr};
  if (bias.has_value()) {
    TORCH_CHECK(bias->sizes() == at::IntArrayRef({heads, keys, queries}) && bias->is_contiguous() &&
                    bias->scalar_type() == at::kFloat,
                "masked_attention: expected a contiguous float32 bias (", heads, ", ", keys, ", ", queries, "), got ",
                bias->sizes());
    p.bias = bias->const_data_ptr<float>();
  }
  if (mask.has_value()) {
    TORCH_CHECK(mask->sizes() == at::IntArrayRef({images, keys, queries}) && mask->is_contiguous() &&
                    (mask->scalar_type() == at::kFloat || mask->scalar_type() == at::kBool),
                "masked_attention: expected contiguous bool or float32 masks (", images, ", ", keys, ", ", queries,
                "), got ", mask->sizes(), " of ", mask->scalar_type());
    if (mask->scalar_type() == at::kFloat)
      p.added = mask->const_data_ptr<float>();
    else
      p.allowed = reinterpret_cast<const uint8_t*>(mask->const_data_ptr<bool>());
  }
  const auto kernel = SEGCORE_BUILD_OF(ma_kernel)();
  const int64_t block = kernel.block(queries), tasks = images * heads * ((queries + block - 1) / block);
  // enough tasks of few keys that starting a thread for them pays
  const int64_t least = std::max<int64_t>(1, 4096 / keys);
  at::parallel_for(0, tasks, least, [&](int64_t begin, int64_t end) { kernel.forward(p, begin, end); });
  return output;
}

}  // namespace

TORCH_LIBRARY_IMPL(segcore_native, CPU, m) { m.impl("masked_attention", &masked_attention); }

}  // namespace segcore
