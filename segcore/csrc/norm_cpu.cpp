// Group normalisation (arXiv:1803.08494) of a channels-last map, in the map's own memory, with what follows it: a
// coarser map added, enlarged bilinearly, or what is negative set to 0. Large maps take longer to be given new memory
// than to be normalised.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "inline_for.h"

namespace segcore {
namespace {

constexpr int64_t kExact = 64;        // pixels whose sums are kept in single precision
constexpr int64_t kTask = 2048;  // pixels

// Sums over pixels of each channel's differences from its `shift`, and of their squares: 2 x channels numbers.
struct Sum {
  SEGCORE_ALWAYS_INLINE static void run(const float* __restrict x, int64_t pixels, int64_t channels,
                                        const float* __restrict shift, float* __restrict part,
                                        double* __restrict sums) {
    std::fill(sums, sums + 2 * channels, 0.0);
    for (int64_t first = 0; first < pixels; first += kExact) {
      std::fill(part, part + 2 * channels, 0.0f);
      float* __restrict squares = part + channels;
      for (int64_t i = first; i < std::min(first + kExact, pixels); ++i) {
        const float* pixel = x + i * channels;
        for (int64_t c = 0; c < channels; ++c) {
          const float d = pixel[c] - shift[c];
          part[c] += d;
          squares[c] += d * d;
        }
      }
      for (int64_t c = 0; c < 2 * channels; ++c) sums[c] += part[c];
    }
  }
};

// x * factor + offset of each channel.
struct Scale {
  SEGCORE_ALWAYS_INLINE static void run(float* __restrict x, int64_t pixels, int64_t channels,
                                        const float* __restrict factor, const float* __restrict offset) {
    for (int64_t i = 0; i < pixels; ++i, x += channels)
      for (int64_t c = 0; c < channels; ++c) x[c] = x[c] * factor[c] + offset[c];
  }
};

struct ScaleAndClip {
  SEGCORE_ALWAYS_INLINE static void run(float* __restrict x, int64_t pixels, int64_t channels,
                                        const float* __restrict factor, const float* __restrict offset) {
    for (int64_t i = 0; i < pixels; ++i, x += channels)
      for (int64_t c = 0; c < channels; ++c) {
        const float y = x[c] * factor[c] + offset[c];
        x[c] = y < 0.0f ? 0.0f : y;  // NaN stays
      }
  }
};

// Between which two places of a line of `size` the place i of one of `target` lies: first + share * (second - first).
struct Between {
  int64_t first, second;
  float share;

  static Between at(int64_t i, int64_t size, int64_t target) {
    const float place = std::max((float(i) + 0.5f) * (float(size) / float(target)) - 0.5f, 0.0f);
    const int64_t first = std::min(int64_t(place), size - 1);
    return {first, std::min(first + 1, size - 1), place - float(first)};
  }
};

// A row, scaled, plus the same row of the coarser map.
struct ScaleAndAdd {
  SEGCORE_ALWAYS_INLINE static void run(float* __restrict x, int64_t channels, const float* __restrict factor,
                                        const float* __restrict offset, const float* __restrict upper,
                                        const float* __restrict lower, float down, const Between* columns,
                                        int64_t width) {
    for (int64_t i = 0; i < width; ++i, x += channels) {
      const Between& at = columns[i];
      const float *a = upper + at.first * channels, *b = upper + at.second * channels;
      const float *c = lower + at.first * channels, *d = lower + at.second * channels;
      const float wa = (1 - down) * (1 - at.share), wb = (1 - down) * at.share;
      const float wc = down * (1 - at.share), wd = down * at.share;
      for (int64_t k = 0; k < channels; ++k)
        x[k] = x[k] * factor[k] + offset[k] + (wa * a[k] + wb * b[k] + (wc * c[k] + wd * d[k]));
    }
  }
};

// What scales and moves the channels of one image.
struct Affine {
  std::vector<float> factor, offset;
};

std::vector<double> channel_sums(const float* x, int64_t pixels, int64_t channels) {
  const int64_t tasks = std::max<int64_t>(pixels / kTask, 1);  // of any number of threads: the same sums
  std::vector<double> sums(tasks * 2 * channels);
  at::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> part(2 * channels);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t from = pixels * task / tasks, to = pixels * (task + 1) / tasks;
      run_here<Sum>(x + from * channels, to - from, channels, x, part.data(), sums.data() + task * 2 * channels);
    }
  });
  for (int64_t task = 1; task < tasks; ++task)
    for (int64_t c = 0; c < 2 * channels; ++c) sums[c] += sums[task * 2 * channels + c];
  return sums;
}

Affine affine(const float* x, int64_t pixels, int64_t channels, int64_t groups, const float* weight, const float* bias,
              double eps) {
  const auto sums = channel_sums(x, pixels, channels);
  Affine result{std::vector<float>(channels), std::vector<float>(channels)};
  const int64_t size = channels / groups;
  for (int64_t first = 0; first < channels; first += size) {
    double mean = 0, variance = 0;
    for (int64_t c = first; c < first + size; ++c) mean += (sums[c] / double(pixels) + x[c]) / double(size);
    for (int64_t c = first; c < first + size; ++c) {
      const double off = mean - x[c];
      variance += (sums[channels + c] - 2 * off * sums[c]) / double(pixels) + off * off;
    }
    const double inverse = 1 / std::sqrt(std::max(variance / double(size), 0.0) + eps);
    for (int64_t c = first; c < first + size; ++c) {
      result.factor[c] = float(inverse * weight[c]);
      result.offset[c] = float(bias[c] - mean * inverse * weight[c]);
    }
  }
  return result;
}

// x (N, H, W, C) and the coarser map (N, h, w, C), bilinear as F.interpolate with align_corners=False is.
void group_norm_(at::Tensor& x, int64_t groups, const at::Tensor& weight, const at::Tensor& bias, double eps, bool relu,
                 const std::optional<at::Tensor>& coarse) {
  TORCH_CHECK(x.dim() == 4 && x.is_contiguous() && x.scalar_type() == at::kFloat && x.numel() > 0,
              "group_norm_: expected a contiguous float32 map (N, H, W, C), got ", x.sizes(), " of ", x.scalar_type());
  const int64_t images = x.size(0), height = x.size(1), width = x.size(2), channels = x.size(3);
  TORCH_CHECK(groups > 0 && channels % groups == 0, "group_norm_: ", channels, " channels are not ", groups, " groups");
  for (const auto* y : {&weight, &bias})
    TORCH_CHECK(y->sizes() == at::IntArrayRef({channels}) && y->is_contiguous() && y->scalar_type() == at::kFloat,
                "group_norm_: expected ", channels, " contiguous float32 weights and biases, got ", y->sizes());
  TORCH_CHECK(!(relu && coarse.has_value()), "group_norm_: either relu or a map to add");
  if (coarse.has_value())
    TORCH_CHECK(coarse->dim() == 4 && coarse->is_contiguous() && coarse->scalar_type() == at::kFloat &&
                    coarse->numel() > 0 && coarse->size(0) == images && coarse->size(3) == channels,
                "group_norm_: expected a contiguous float32 map (", images, ", h, w, ", channels, ") to add, got ",
                coarse->sizes());
  std::vector<Between> columns;
  if (coarse.has_value())
    for (int64_t i = 0; i < width; ++i) columns.push_back(Between::at(i, coarse->size(2), width));
  float* data = x.data_ptr<float>();
  for (int64_t image = 0; image < images; ++image) {
    float* of_image = data + image * height * width * channels;
    const auto by = affine(of_image, height * width, channels, groups, weight.const_data_ptr<float>(),
                           bias.const_data_ptr<float>(), eps);
    const float *factor = by.factor.data(), *offset = by.offset.data();
    at::parallel_for(0, height, std::max<int64_t>(1, kTask / width), [&](int64_t begin, int64_t end) {
      for (int64_t y = begin; y < end; ++y) {
        float* row = of_image + y * width * channels;
        if (coarse.has_value()) {
          const auto at = Between::at(y, coarse->size(1), height);
          const int64_t step = coarse->size(2) * channels;
          const float* other = coarse->const_data_ptr<float>() + image * coarse->size(1) * step;
          run_here<ScaleAndAdd>(row, channels, factor, offset, other + at.first * step, other + at.second * step,
                                at.share, columns.data(), width);
        } else if (relu) {
          run_here<ScaleAndClip>(row, width, channels, factor, offset);
        } else {
          run_here<Scale>(row, width, channels, factor, offset);
        }
      }
    });
  }
}

}  // namespace

TORCH_LIBRARY_IMPL(segcore_native, CPU, m) { m.impl("group_norm_", &group_norm_); }

}  // namespace segcore
