// PyTorch binding of attention to a map of rows and columns: checks and threads.
#include "ga_cpu.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>

#include "cpu_features.h"
#include "head_views.h"

namespace segcore {
namespace {

at::Tensor grid_attention(const at::Tensor& query_in, const at::Tensor& key_in, const at::Tensor& rows_in,
                          const at::Tensor& columns_in) {
  TORCH_CHECK(query_in.dim() == 4 && key_in.dim() == 4 && rows_in.dim() == 3 && columns_in.dim() == 3,
              "grid_attention: expected query (N, M, Q, D), key (N, M, H * W, D), rows (H, M, D), columns (W, M, D)");
  const int64_t images = query_in.size(0), heads = query_in.size(1), queries = query_in.size(2);
  const int64_t channels = query_in.size(3), height = rows_in.size(0), width = columns_in.size(0);
  TORCH_CHECK(key_in.sizes() == at::IntArrayRef({images, heads, height * width, channels}) &&
                  rows_in.sizes() == at::IntArrayRef({height, heads, channels}) &&
                  columns_in.sizes() == at::IntArrayRef({width, heads, channels}) && height * width > 0,
              "grid_attention: query ", query_in.sizes(), ", key ", key_in.sizes(), ", rows ", rows_in.sizes(),
              " and columns ", columns_in.sizes(), " do not belong together");
  for (const auto* x : {&query_in, &key_in, &rows_in, &columns_in})
    TORCH_CHECK(x->scalar_type() == at::kFloat, "grid_attention: expected float32, got ", x->scalar_type());
  const auto query = with_contiguous_channels(query_in), key = with_contiguous_channels(key_in);
  const auto rows = rows_in.contiguous(), columns = columns_in.contiguous();
  // in memory (N, Q, M, D): the heads are joined without a copy
  auto output = at::empty({images, queries, heads, channels}, query.options()).transpose(1, 2);
  const auto chosen = SEGCORE_BUILD_OF(ga_kernel)();
  const float scale = 1.0f / std::sqrt(float(channels));
  const GaProblem problem{heads, queries, height, width, channels, scale, head_view(query), head_view(key),
                          rows.const_data_ptr<float>(), columns.const_data_ptr<float>(), head_view(output)};
  const int64_t heads_in_all = images * heads, blocks = (queries + chosen.block - 1) / chosen.block;
  if (heads_in_all * blocks == 0) return output;
  // few heads on many cores: split the queries too, although the keys are then read once for each part
  const int64_t parts = std::clamp<int64_t>(at::get_num_threads() / heads_in_all, 1, blocks);
  at::parallel_for(0, heads_in_all * parts, 1,
                   [&](int64_t begin, int64_t end) { chosen.forward(problem, parts, begin, end); });
  return output;
}

}  // namespace

TORCH_LIBRARY_IMPL(segcore_native, CPU, m) { m.impl("grid_attention", &grid_attention); }

}  // namespace segcore
