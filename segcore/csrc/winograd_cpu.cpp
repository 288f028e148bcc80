// Convolution 3 x 3 by Winograd's minimal filtering F(2x2, 3x3) (Lavin and Gray, arXiv:1509.09308): 16 products where
// the sum has 36. A tile of 2 x 2 outputs y depends on 4 x 4 inputs d: with a kernel g,
//
//   y = A' [(G g G') * (B' d B)] A,   * element by element, summed over the input channels by 16 matrix products.
//
// Here are the three linear maps around the products; segcore/ops/maps.py multiplies. Maps are channels last.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

#include "inline_for.h"

namespace segcore {
namespace {

// B' d B of one tile: 16 pixels to 16 numbers of every channel, `step` apart.
struct Spread {
  SEGCORE_ALWAYS_INLINE static void run(const float* const* pixels, int64_t channels, float* __restrict output,
                                        int64_t step) {
    for (int64_t c = 0; c < channels; ++c) {
      float down[16];
      for (int x = 0; x < 4; ++x) {
        const float a = pixels[x][c], b = pixels[4 + x][c], d = pixels[8 + x][c], e = pixels[12 + x][c];
        down[x] = a - d, down[4 + x] = b + d, down[8 + x] = d - b, down[12 + x] = b - e;
      }
      for (int y = 0; y < 4; ++y) {
        const float a = down[4 * y], b = down[4 * y + 1], d = down[4 * y + 2], e = down[4 * y + 3];
        float* to = output + 4 * y * step + c;
        to[0] = a - d, to[step] = b + d, to[2 * step] = d - b, to[3 * step] = b - e;
      }
    }
  }
};

// A' m A of one tile: 16 numbers of every channel to the pixels above left, above right, below left and below right.
struct Gather {
  SEGCORE_ALWAYS_INLINE static void run(const float* const* products, int64_t channels, float* const* pixels) {
    float *__restrict p0 = pixels[0], *__restrict p1 = pixels[1], *__restrict p2 = pixels[2], *__restrict p3 = pixels[3];
    for (int64_t c = 0; c < channels; ++c) {
      float above[4], below[4];
      for (int x = 0; x < 4; ++x) {
        const float a = products[x][c], b = products[4 + x][c], d = products[8 + x][c], e = products[12 + x][c];
        above[x] = a + b + d, below[x] = b - d - e;
      }
      p0[c] = above[0] + above[1] + above[2], p1[c] = above[1] - above[2] - above[3];
      p2[c] = below[0] + below[1] + below[2], p3[c] = below[1] - below[2] - below[3];
    }
  }
};

void check_map(const at::Tensor& map, int64_t first, int64_t rows, const char* name) {
  TORCH_CHECK(map.dim() == 3 && map.is_contiguous() && map.scalar_type() == at::kFloat && map.numel() > 0, name,
              ": expected a contiguous float32 map (H, W, C), got ", map.sizes(), " of ", map.scalar_type());
  TORCH_CHECK(first >= 0 && first % 2 == 0 && rows > 0 && first + rows <= map.size(0) &&
                  (rows % 2 == 0 || first + rows == map.size(0)),
              name, ": rows ", first, " to ", first + rows, " of ", map.size(0), " are not whole tiles");
}

// The tiles of rows first .. first + rows of a map (H, W, C), zero outside of it, into the first ones of `output`
// (16, tiles or more, C). `above` is row first - 1, which the map may not hold any more.
void winograd_spread(const at::Tensor& map, int64_t first, int64_t rows, const at::Tensor& above, at::Tensor& output) {
  check_map(map, first, rows, "winograd_spread");
  const int64_t height = map.size(0), width = map.size(1), channels = map.size(2);
  TORCH_CHECK(above.sizes() == at::IntArrayRef({width, channels}) && above.is_contiguous() &&
                  above.scalar_type() == at::kFloat,
              "winograd_spread: expected the row above as (", width, ", ", channels, ") float32, got ", above.sizes());
  const int64_t across = (width + 1) / 2, tiles = (rows + 1) / 2 * across;
  TORCH_CHECK(output.dim() == 3 && output.size(0) == 16 && output.size(1) >= tiles && output.size(2) == channels &&
                  output.is_contiguous() && output.scalar_type() == at::kFloat,
              "winograd_spread: expected contiguous float32 memory (16, ", tiles, " or more, ", channels, "), got ",
              output.sizes());
  const int64_t step = output.stride(0);
  const float* data = map.const_data_ptr<float>();
  float* target = output.data_ptr<float>();
  const std::vector<float> zeros(channels);
  at::parallel_for(0, tiles, across, [&](int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; ++tile) {
      const int64_t top = first + tile / across * 2 - 1, left = tile % across * 2 - 1;
      const float* pixels[16];
      for (int64_t i = 0; i < 16; ++i) {
        const int64_t y = top + i / 4, x = left + i % 4;
        const bool inside = y >= 0 && y < height && x >= 0 && x < width;
        const float* row = y < first ? above.const_data_ptr<float>() : data + y * width * channels;
        pixels[i] = inside ? row + x * channels : zeros.data();
      }
      run_here<Spread>(pixels, channels, target + tile * channels, step);
    }
  });
}

// Rows first .. first + rows of the output (H, W, C), of 16 products (tiles, C).
void winograd_gather_(at::Tensor& map, int64_t first, int64_t rows, at::TensorList products) {
  check_map(map, first, rows, "winograd_gather_");
  const int64_t width = map.size(1), channels = map.size(2), end_row = first + rows;
  const int64_t across = (width + 1) / 2, tiles = (rows + 1) / 2 * across;
  TORCH_CHECK(products.size() == 16, "winograd_gather_: expected 16 products, got ", products.size());
  for (const auto& x : products)
    TORCH_CHECK(x.sizes() == at::IntArrayRef({tiles, channels}) && x.is_contiguous() && x.scalar_type() == at::kFloat,
                "winograd_gather_: expected contiguous float32 products (", tiles, ", ", channels, "), got ", x.sizes());
  float* data = map.data_ptr<float>();
  at::parallel_for(0, tiles, across, [&](int64_t begin, int64_t end) {
    std::vector<float> unused(channels);
    for (int64_t tile = begin; tile < end; ++tile) {
      const int64_t top = first + tile / across * 2, left = tile % across * 2;
      const float* from[16];
      for (int64_t i = 0; i < 16; ++i) from[i] = products[i].const_data_ptr<float>() + tile * channels;
      float* pixels[4];
      for (int64_t i = 0; i < 4; ++i) {
        const int64_t y = top + i / 2, x = left + i % 2;
        pixels[i] = y < end_row && x < width ? data + (y * width + x) * channels : unused.data();
      }
      run_here<Gather>(from, channels, pixels);
    }
  });
}

// G g G' of every kernel (N, C, 3, 3): (16, N, C).
at::Tensor winograd_kernels(const at::Tensor& weight_in) {
  TORCH_CHECK(weight_in.dim() == 4 && weight_in.size(2) == 3 && weight_in.size(3) == 3 &&
                  weight_in.scalar_type() == at::kFloat,
              "winograd_kernels: expected float32 kernels (N, C, 3, 3), got ", weight_in.sizes(), " of ",
              weight_in.scalar_type());
  const auto weight = weight_in.contiguous();
  const int64_t count = weight.size(0) * weight.size(1);
  auto output = at::empty({16, weight.size(0), weight.size(1)}, weight.options());
  const float* source = weight.const_data_ptr<float>();
  float* target = output.data_ptr<float>();
  at::parallel_for(0, count, 4096, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float* g = source + 9 * i;
      float down[12];
      for (int x = 0; x < 3; ++x) {
        down[x] = g[x], down[9 + x] = g[6 + x];
        down[3 + x] = 0.5f * (g[x] + g[3 + x] + g[6 + x]);
        down[6 + x] = 0.5f * (g[x] - g[3 + x] + g[6 + x]);
      }
      for (int y = 0; y < 4; ++y) {
        const float* row = down + 3 * y;
        const float even = row[0] + row[2];
        float* to = target + 4 * y * count + i;
        to[0] = row[0], to[count] = 0.5f * (even + row[1]), to[2 * count] = 0.5f * (even - row[1]), to[3 * count] = row[2];
      }
    }
  });
  return output;
}

}  // namespace

TORCH_LIBRARY_IMPL(segcore_native, CPU, m) {
  m.impl("winograd_spread", &winograd_spread);
  m.impl("winograd_gather_", &winograd_gather_);
  m.impl("winograd_kernels", &winograd_kernels);
}

}  // namespace segcore
