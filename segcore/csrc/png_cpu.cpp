// The pixels of an inflated RGB PNG as segment ids, R + 256 G + 65536 B (W3C PNG specification, section 9, filters).
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "inline_for.h"

namespace segcore {
namespace {

constexpr int kChannels = 3;

enum Filter { kNone, kSub, kUp, kAverage, kPaeth };

SEGCORE_ALWAYS_INLINE uint8_t paeth(int left, int above, int corner) {
  const int to_left = std::abs(above - corner), to_above = std::abs(left - corner);
  const int to_corner = std::abs(left + above - 2 * corner);
  const int nearer = to_above <= to_corner ? above : corner;
  return uint8_t(to_left <= to_above && to_left <= to_corner ? left : nearer);
}

// Undoes the filter of one row. `row` and `above` have a black pixel before their first.
struct Unfilter {
  static SEGCORE_ALWAYS_INLINE void run(int filter, const uint8_t* source, const uint8_t* above, int64_t size,
                                        uint8_t* row) {
    switch (filter) {
      case kNone:
        std::copy(source, source + size, row);
        return;
      case kSub:
        for (int64_t i = 0; i < size; ++i) row[i] = uint8_t(source[i] + row[i - kChannels]);
        return;
      case kUp:
        for (int64_t i = 0; i < size; ++i) row[i] = uint8_t(source[i] + above[i]);
        return;
      case kAverage:
        for (int64_t i = 0; i < size; ++i) row[i] = uint8_t(source[i] + (row[i - kChannels] + above[i]) / 2);
        return;
      default:
        for (int64_t i = 0; i < size; i += kChannels)
          for (int c = 0; c < kChannels; ++c)
            row[i + c] = uint8_t(source[i + c] + paeth(row[i + c - kChannels], above[i + c], above[i + c - kChannels]));
    }
  }
};

struct Ids {
  static SEGCORE_ALWAYS_INLINE void run(const uint8_t* row, int64_t width, int32_t* target) {
    for (int64_t i = 0; i < width; ++i, row += kChannels)
      target[i] = int32_t(row[0]) | int32_t(row[1]) << 8 | int32_t(row[2]) << 16;
  }
};

at::Tensor png_ids(const at::Tensor& inflated, int64_t height, int64_t width) {
  const int64_t size = width * kChannels;
  TORCH_CHECK(inflated.scalar_type() == at::kByte && inflated.is_contiguous() && height > 0 && width > 0 &&
                  inflated.numel() == height * (size + 1),
              "png_ids: expected the ", height * (size + 1), " bytes of ", height, " x ", width,
              " filtered RGB pixels, got ", inflated.numel());
  auto output = at::empty({height, width}, inflated.options().dtype(at::kInt));
  const uint8_t* source = inflated.const_data_ptr<uint8_t>();
  int32_t* target = output.mutable_data_ptr<int32_t>();
  std::vector<uint8_t> rows[2];
  for (auto& row : rows) row.assign(size + kChannels, 0);
  for (int64_t y = 0; y < height; ++y, source += size + 1, target += width) {
    TORCH_CHECK(source[0] <= kPaeth, "png_ids: unknown filter ", int(source[0]), " in row ", y);
    uint8_t* row = rows[y % 2].data() + kChannels;
    const uint8_t* above = rows[1 - y % 2].data() + kChannels;
    run_here<Unfilter>(int(source[0]), source + 1, above, size, row);
    run_here<Ids>(static_cast<const uint8_t*>(row), width, target);
  }
  return output;
}

}  // namespace

TORCH_LIBRARY_IMPL(segcore_native, CPU, m) { m.impl("png_ids", &png_ids); }

}  // namespace segcore
