// Windows of enlarged mask logits, and the query that wins each pixel, to the bit as PyTorch computes them.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "inline_for.h"

namespace segcore {
namespace {

constexpr int64_t kPixels = 512;     // whose leaders are kept in the cache
constexpr int64_t kTask = 1 << 14;  // numbers that a thread should at least make

// high * weight, and low * (1 - weight) added without rounding in between: so F.interpolate does where a processor can.
template <bool kFused>
SEGCORE_ALWAYS_INLINE float between(float low, float high, float weight, float rest) {
  const float product = high * weight;
#if defined(__GNUC__) || defined(__clang__)
  if (kFused) return __builtin_fmaf(low, rest, product);
#endif
  return product + low * rest;
}

// A line of numbers between those at `low` and those at `high`.
template <bool kFused>
struct Across {
  SEGCORE_ALWAYS_INLINE static void run(const float* __restrict row, const int32_t* __restrict low,
                                        const int32_t* __restrict high, const float* __restrict weight, int64_t count,
                                        float* __restrict output) {
    for (int64_t i = 0; i < count; ++i)
      output[i] = between<kFused>(row[low[i]], row[high[i]], weight[i], 1.0f - weight[i]);
  }
};

// A line between two others.
template <bool kFused>
struct Down {
  SEGCORE_ALWAYS_INLINE static void run(const float* low, const float* high, float weight, int64_t count,
                                        float* __restrict output) {
    const float rest = 1.0f - weight;
    for (int64_t i = 0; i < count; ++i) output[i] = between<kFused>(low[i], high[i], weight, rest);
  }
};

template <template <bool> class Body, class... Arguments>
void run_as_pytorch(Arguments... arguments) {
#if SEGCORE_X86
  if (instruction_set() != InstructionSet::kDefault) return run_with_avx2<Body<true>>(arguments...);
  return Body<false>::run(arguments...);
#else
  return Body<true>::run(arguments...);
#endif
}

// One axis: output i lies between places low[i] and high[i].
struct Taps {
  std::vector<int32_t> low, high;
  std::vector<float> weight;

  Taps(at::TensorList taps, int64_t size) {
    TORCH_CHECK(taps.size() == 3 && taps[0].dim() == 1 && taps[0].numel() > 0 &&
                    taps[0].scalar_type() == at::kLong && taps[1].scalar_type() == at::kLong &&
                    taps[2].scalar_type() == at::kFloat && taps[1].sizes() == taps[0].sizes() &&
                    taps[2].sizes() == taps[0].sizes(),
                "mask_window: expected low and high places (int64) and weights (float32) of each output");
    for (auto* places : {&low, &high}) {
      const auto given = taps[places == &high].contiguous();
      for (int64_t i = 0; i < given.numel(); ++i) {
        const int64_t place = given.const_data_ptr<int64_t>()[i];
        TORCH_CHECK(0 <= place && place < size, "mask_window: place ", place, " of ", size);
        places->push_back(int32_t(place));
      }
    }
    const auto given = taps[2].contiguous();
    weight.assign(given.const_data_ptr<float>(), given.const_data_ptr<float>() + given.numel());
  }
  int64_t size() const { return int64_t(low.size()); }
};

// Rows of one mask, enlarged across; the last two are kept, since rows that are asked for follow each other.
class Rows {
 public:
  Rows(const Taps& across, int64_t width) : across_(across), width_(width), memory_(2 * across.size()) {}

  void start(const float* mask) {
    mask_ = mask;
    number_[0] = number_[1] = -1;
  }

  // Does not disturb row `other`.
  const float* get(int64_t row, int64_t other) {
    for (int i : {0, 1})
      if (number_[i] == row) return line(i);
    const int i = number_[0] == other ? 1 : 0;
    run_as_pytorch<Across>(mask_ + row * width_, across_.low.data(), across_.high.data(), across_.weight.data(),
                           across_.size(), line(i));
    number_[i] = row;
    return line(i);
  }

 private:
  float* line(int i) { return memory_.data() + i * across_.size(); }

  const Taps& across_;
  const int64_t width_;
  std::vector<float> memory_;
  const float* mask_ = nullptr;
  int64_t number_[2] = {-1, -1};
};

at::Tensor mask_window(const at::Tensor& masks, const std::optional<at::Tensor>& queries_in, at::TensorList rows,
                       at::TensorList columns) {
  TORCH_CHECK(masks.dim() == 3 && masks.scalar_type() == at::kFloat && (masks.numel() == 0 || masks.stride(2) == 1),
              "mask_window: expected float32 masks (n, h, w) whose rows are contiguous, got ", masks.sizes(), " of ",
              masks.scalar_type());
  const Taps down(rows, masks.size(1)), across(columns, masks.size(2));
  TORCH_CHECK(masks.stride(1) == masks.size(2) || masks.size(1) == 1, "mask_window: a mask's rows must follow each other");
  std::vector<int64_t> queries;
  if (queries_in.has_value()) {
    const auto given = queries_in->contiguous();
    TORCH_CHECK(given.dim() == 1 && given.scalar_type() == at::kLong, "mask_window: expected int64 numbers of queries");
    queries.assign(given.const_data_ptr<int64_t>(), given.const_data_ptr<int64_t>() + given.numel());
    for (int64_t query : queries)
      TORCH_CHECK(0 <= query && query < masks.size(0), "mask_window: query ", query, " of ", masks.size(0));
  } else {
    for (int64_t query = 0; query < masks.size(0); ++query) queries.push_back(query);
  }
  const int64_t height = down.size(), width = across.size(), count = int64_t(queries.size());
  auto output = at::empty({count, height, width}, masks.options());
  const float* source = masks.const_data_ptr<float>();
  float* target = output.data_ptr<float>();
  const int64_t step = masks.stride(0);
  at::parallel_for(0, count, std::max<int64_t>(1, kTask / (height * width)), [&](int64_t begin, int64_t end) {
    Rows enlarged(across, masks.size(2));
    for (int64_t i = begin; i < end; ++i) {
      enlarged.start(source + queries[i] * step);
      for (int64_t y = 0; y < height; ++y) {
        const float* low = enlarged.get(down.low[y], down.high[y]);
        const float* high = enlarged.get(down.high[y], down.low[y]);
        run_as_pytorch<Down>(low, high, down.weight[y], width, target + (i * height + y) * width);
      }
    }
  });
  return output;
}

// For a block of pixels, of every query its p(mask) `step` apart: the first with the greatest score * p(mask), whether
// its own p(mask) is 1/2 or more, and of each query how many pixels are so.
struct Lead {
  SEGCORE_ALWAYS_INLINE static void run(const float* probs, int64_t step, int64_t pixels, const float* scores,
                                        int64_t queries, int32_t* __restrict leader, int32_t* __restrict visible,
                                        int64_t* __restrict covered) {
    float best[kPixels];
    for (int64_t i = 0; i < pixels; ++i) best[i] = -1.0f, leader[i] = 0, visible[i] = 0;
    for (int64_t q = 0; q < queries; ++q) {
      const float score = scores[q], *mine = probs + q * step;
      int32_t inside = 0;
      for (int64_t i = 0; i < pixels; ++i) {
        const int32_t is_inside = mine[i] >= 0.5f;
        const float value = mine[i] * score;
        const bool leads = value > best[i];
        inside += is_inside;
        best[i] = leads ? value : best[i];
        leader[i] = leads ? int32_t(q) : leader[i];
        visible[i] = leads ? is_inside : visible[i];
      }
      covered[q] += inside;
    }
  }
};

// Which query each pixel goes to, of p(mask) (n, pixels) and scores (n): int16, 0 where the winner's own p(mask) is
// below 1/2, else 1 + its number; and (3, n) int64 per query: pixels won, pixels with p(mask) of 1/2 or more, both.
std::tuple<at::Tensor, at::Tensor> compete(const at::Tensor& probs, const at::Tensor& scores_in) {
  TORCH_CHECK(probs.dim() == 2 && probs.is_contiguous() && probs.scalar_type() == at::kFloat && probs.size(0) > 0 &&
                  probs.size(0) < 32767 && scores_in.sizes() == at::IntArrayRef({probs.size(0)}) &&
                  scores_in.scalar_type() == at::kFloat,
              "compete: expected contiguous float32 p(mask) (n, pixels) and scores (n), got ", probs.sizes(), " of ",
              probs.scalar_type(), " and ", scores_in.sizes());
  const auto scores = scores_in.contiguous();
  const int64_t queries = probs.size(0), pixels = probs.size(1), blocks = at::divup(pixels, kPixels);
  auto places = at::empty({pixels}, probs.options().dtype(at::kShort));
  auto counts = at::zeros({3, queries}, probs.options().dtype(at::kLong));
  const int64_t parts = std::clamp<int64_t>(queries * pixels / kTask, 1, at::get_num_threads());
  std::vector<int64_t> of_part(parts * 3 * queries);
  int16_t* target = places.data_ptr<int16_t>();
  at::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    int32_t leader[kPixels], visible[kPixels];
    for (int64_t part = begin; part < end; ++part) {
      int64_t *won = of_part.data() + part * 3 * queries, *covered = won + queries, *seen = covered + queries;
      for (int64_t block = blocks * part / parts; block < blocks * (part + 1) / parts; ++block) {
        const int64_t first = block * kPixels, here = std::min(kPixels, pixels - first);
        run_here<Lead>(probs.const_data_ptr<float>() + first, pixels, here, scores.const_data_ptr<float>(), queries,
                       leader, visible, covered);
        for (int64_t i = 0; i < here; ++i) {
          ++won[leader[i]];
          seen[leader[i]] += visible[i];
          target[first + i] = int16_t(visible[i] ? leader[i] + 1 : 0);
        }
      }
    }
  });
  int64_t* sums = counts.data_ptr<int64_t>();
  for (int64_t i = 0; i < parts * 3 * queries; ++i) sums[i % (3 * queries)] += of_part[i];
  return {places, counts};
}

}  // namespace

TORCH_LIBRARY_IMPL(segcore_native, CPU, m) {
  m.impl("mask_window", &mask_window);
  m.impl("compete", &compete);
}

}  // namespace segcore
