// A window of a resized picture, to the bit what Pillow's Image.resize makes of the whole and a crop then leaves.
//
// Pillow resizes columns first and rows second, with bytes in between. A coefficient is computed in double, and kept
// as an integer of 22 fractional bits; each sum starts at one half and is shifted down. The same here, of the window's
// rows and columns alone.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "inline_for.h"

namespace segcore {
namespace {

constexpr int kBits = 22;
constexpr int32_t kHalf = 1 << (kBits - 1);

// Outputs first .. first + count - 1 of an axis: `taps` sources from start[i] on, with their weights.
struct Axis {
  int64_t taps = 0;
  std::vector<int64_t> start;
  std::vector<int32_t> weights;

  Axis(int64_t size, int64_t new_size, int64_t first, int64_t count) {
    const double scale = double(size) / double(new_size), filter_scale = std::max(scale, 1.0);
    const double per_unit = 1.0 / filter_scale;
    std::vector<double> centers(count);
    std::vector<int64_t> ends(count);
    start.resize(count);
    for (int64_t i = 0; i < count; ++i) {
      centers[i] = (double(first + i) + 0.5) * scale;
      start[i] = std::max<int64_t>(0, int64_t(centers[i] - filter_scale + 0.5));
      ends[i] = std::min<int64_t>(size, int64_t(centers[i] + filter_scale + 0.5));
      taps = std::max(taps, ends[i] - start[i]);
    }
    weights.assign(count * taps, 0);
    std::vector<double> exact(taps);
    for (int64_t i = 0; i < count; ++i) {
      double sum = 0;
      const int64_t used = ends[i] - start[i];
      for (int64_t k = 0; k < used; ++k) {
        const double distance = std::abs((double(start[i] + k) - centers[i] + 0.5) * per_unit);
        exact[k] = distance < 1.0 ? 1.0 - distance : 0.0;
        sum += exact[k];
      }
      // Near the end there are fewer sources: all outputs read the same number, some with weight 0.
      const int64_t shift = std::max<int64_t>(0, start[i] + taps - size);
      start[i] -= shift;
      for (int64_t k = 0; k < used; ++k) {
        const double weight = sum != 0.0 ? exact[k] / sum : exact[k];
        weights[i * taps + shift + k] = int32_t(0.5 + weight * double(1 << kBits));
      }
    }
  }
};

// One row: C channels of `count` outputs from a row of sources.
template <int C, int Taps>
struct Columns {
  static SEGCORE_ALWAYS_INLINE void run(const uint8_t* source, const int64_t* start, const int32_t* weights, int64_t taps,
                                        int64_t count, uint8_t* target) {
    if (Taps > 0) taps = Taps;
    for (int64_t i = 0; i < count; ++i, weights += taps, target += C) {
      const uint8_t* from = source + start[i] * C;
      int32_t sums[C];
      for (int c = 0; c < C; ++c) sums[c] = kHalf;
      for (int64_t k = 0; k < taps; ++k)
        for (int c = 0; c < C; ++c) sums[c] += weights[k] * int32_t(from[k * C + c]);
      for (int c = 0; c < C; ++c) target[c] = uint8_t(sums[c] >> kBits);
    }
  }
};

// One row of outputs from `taps` rows of sources, `stride` bytes apart.
struct Row {
  static SEGCORE_ALWAYS_INLINE void run(const uint8_t* source, int64_t stride, const int32_t* weights, int64_t taps,
                                        int64_t width, int32_t* sums, uint8_t* target) {
    if (taps == 2) {
      const int32_t first = weights[0], second = weights[1];
      const uint8_t* below = source + stride;
      for (int64_t i = 0; i < width; ++i)
        target[i] = uint8_t((kHalf + first * int32_t(source[i]) + second * int32_t(below[i])) >> kBits);
      return;
    }
    std::fill(sums, sums + width, kHalf);
    for (int64_t k = 0; k < taps; ++k, source += stride)
      for (int64_t i = 0; i < width; ++i) sums[i] += weights[k] * int32_t(source[i]);
    for (int64_t i = 0; i < width; ++i) target[i] = uint8_t(sums[i] >> kBits);
  }
};

template <int C>
void resize_columns(const uint8_t* source, const Axis& axis, int64_t count, uint8_t* target) {
  if (axis.taps == 2)
    run_here<Columns<C, 2>>(source, axis.start.data(), axis.weights.data(), axis.taps, count, target);
  else
    run_here<Columns<C, 0>>(source, axis.start.data(), axis.weights.data(), axis.taps, count, target);
}

void check(const at::Tensor& image, int64_t height, int64_t width, int64_t top, int64_t left, int64_t rows,
           int64_t columns) {
  TORCH_CHECK(image.scalar_type() == at::kByte && image.dim() == 3 && image.is_contiguous() && image.numel() > 0,
              "resize: expected a contiguous, not empty (H, W, C) uint8 image, got ", image.sizes(), " of ",
              image.scalar_type());
  TORCH_CHECK(image.size(2) == 1 || image.size(2) == 3, "resize: expected 1 or 3 channels, got ", image.size(2));
  TORCH_CHECK(top >= 0 && left >= 0 && rows > 0 && columns > 0 && top + rows <= height && left + columns <= width,
              "resize: the window of ", rows, " x ", columns, " at (", top, ", ", left, ") is not inside of ", height,
              " x ", width);
}

at::Tensor resize_bilinear(const at::Tensor& image, int64_t height, int64_t width, int64_t top, int64_t left,
                           int64_t rows, int64_t columns) {
  check(image, height, width, top, left, rows, columns);
  const int64_t channels = image.size(2), stride = columns * channels;
  const Axis down(image.size(0), height, top, rows), across(image.size(1), width, left, columns);
  const int64_t first = *std::min_element(down.start.begin(), down.start.end());
  const int64_t last = *std::max_element(down.start.begin(), down.start.end()) + down.taps;
  std::vector<uint8_t> between((last - first) * stride);
  const uint8_t* source = image.const_data_ptr<uint8_t>();
  for (int64_t y = first; y < last; ++y) {
    const uint8_t* from = source + y * image.size(1) * channels;
    uint8_t* to = between.data() + (y - first) * stride;
    if (channels == 3)
      resize_columns<3>(from, across, columns, to);
    else
      resize_columns<1>(from, across, columns, to);
  }
  auto output = at::empty({rows, columns, channels}, image.options());
  uint8_t* target = output.mutable_data_ptr<uint8_t>();
  std::vector<int32_t> sums(stride);
  for (int64_t i = 0; i < rows; ++i)
    run_here<Row>(static_cast<const uint8_t*>(between.data()) + (down.start[i] - first) * stride, stride,
                  down.weights.data() + i * down.taps, down.taps, stride, sums.data(), target + i * stride);
  return output;
}

// The source of outputs first .. first + count - 1; summed step by step, as Pillow does.
std::vector<int64_t> nearest(int64_t size, int64_t new_size, int64_t first, int64_t count) {
  const double step = double(size) / double(new_size);
  double position = step * 0.5;
  std::vector<int64_t> sources(count);
  for (int64_t i = 0; i < first + count; ++i, position += step)
    if (i >= first) sources[i - first] = std::min(int64_t(position), size - 1);
  return sources;
}

at::Tensor resize_nearest(const at::Tensor& image, int64_t height, int64_t width, int64_t top, int64_t left,
                          int64_t rows, int64_t columns) {
  check(image, height, width, top, left, rows, columns);
  const int64_t channels = image.size(2);
  const auto down = nearest(image.size(0), height, top, rows), across = nearest(image.size(1), width, left, columns);
  auto output = at::empty({rows, columns, channels}, image.options());
  const uint8_t* source = image.const_data_ptr<uint8_t>();
  uint8_t* target = output.mutable_data_ptr<uint8_t>();
  for (int64_t i = 0; i < rows; ++i, target += columns * channels) {
    if (i > 0 && down[i] == down[i - 1]) {
      std::copy(target - columns * channels, target, target);
      continue;
    }
    const uint8_t* from = source + down[i] * image.size(1) * channels;
    if (channels == 1)
      for (int64_t j = 0; j < columns; ++j) target[j] = from[across[j]];
    else
      for (int64_t j = 0; j < columns; ++j) std::copy_n(from + across[j] * 3, 3, target + j * 3);
  }
  return output;
}

}  // namespace

TORCH_LIBRARY_IMPL(segcore_native, CPU, m) {
  m.impl("resize_bilinear", &resize_bilinear);
  m.impl("resize_nearest", &resize_nearest);
}

}  // namespace segcore
