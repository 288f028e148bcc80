// Label maps in one pass: on how many pixels each pair of labels falls, and segment ids to their numbers.
//
// Labels change every few dozen pixels: where they stay as they are a pixel costs a comparison, and only the first one
// of a run is looked up. Where they change is marked for a block of pixels at once, which is vectorised.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "inline_for.h"

namespace segcore {
namespace {

constexpr int64_t kBlock = 2048;  // pixels whose changes are marked at a time; a multiple of 64
constexpr int64_t kPart = 1 << 15;   // pixels of a thread's part

// Distinct pairs in order of appearance: the place where each was seen first, and on how many pixels.
template <class T>
class Pairs {
 public:
  Pairs(const T* first, const T* second) : first_(first), second_(second), slots_(256, -1) {}

  void add(int64_t place, int64_t pixels) {
    uint64_t slot = hash(place) & (slots_.size() - 1);
    for (; slots_[slot] >= 0; slot = (slot + 1) & (slots_.size() - 1)) {
      const int64_t known = places[slots_[slot]];
      if (first_[known] == first_[place] && second_[known] == second_[place]) {
        counts[slots_[slot]] += pixels;
        return;
      }
    }
    slots_[slot] = int64_t(places.size());
    places.push_back(place);
    counts.push_back(pixels);
    if (2 * places.size() > slots_.size()) grow();
  }

  std::vector<int64_t> places, counts;

 private:
  uint64_t hash(int64_t place) const {
    uint64_t word = uint64_t(first_[place]) * 0x9e3779b97f4a7c15ULL + uint64_t(second_[place]);
    word *= 0xd6e8feb86659fd93ULL;
    return word >> 32;
  }

  void grow() {
    slots_.assign(2 * slots_.size(), -1);
    for (size_t i = 0; i < places.size(); ++i) {
      uint64_t slot = hash(places[i]) & (slots_.size() - 1);
      while (slots_[slot] >= 0) slot = (slot + 1) & (slots_.size() - 1);
      slots_[slot] = int64_t(i);
    }
  }

  const T *first_, *second_;
  std::vector<int64_t> slots_;
};

// changed[i]: 1 where either label of pixel i differs from that of the pixel before it, else 0.
template <class T>
struct MarkChanges {
  static SEGCORE_ALWAYS_INLINE void run(const T* first, const T* second, int64_t size, uint8_t* changed) {
    for (int64_t i = 0; i < size; ++i)
      changed[i] = uint8_t((first[i] != first[i - 1]) | (second[i] != second[i - 1]));
  }
};

// Where the ones are among kBlock bytes of 0 or 1. Each eight bytes write eight places and keep as many as they have
// ones: where labels change cannot be predicted, and a branch that fails costs more than eight places.
inline int64_t places_of_ones(const uint8_t* bytes, int32_t* places) {
  int64_t count = 0;
#if defined(__GNUC__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
  for (int64_t i = 0; i < kBlock; i += 64) {
    uint64_t bits = 0;
    for (int64_t j = 0; j < 64; j += 8) {
      uint64_t word;
      std::memcpy(&word, bytes + i + j, 8);
      bits |= (word * 0x0102040810204080ULL >> 56) << j;
    }
    if (!bits) continue;
    const int64_t ones = __builtin_popcountll(bits);
    for (int32_t* place = places + count; ; place += 8) {
      for (int k = 0; k < 8; ++k) {
        place[k] = int32_t(i + __builtin_ctzll(bits | 1ULL << 63));  // never of 0
        bits &= bits - 1;
      }
      if (!bits) break;
    }
    count += ones;
  }
#else
  for (int64_t i = 0; i < kBlock; ++i)
    if (bytes[i]) places[count++] = int32_t(i);
#endif
  return count;
}

// The pairs of the pixels from `begin` up to `end`.
template <class T>
Pairs<T> count_range(const T* a, const T* b, int64_t begin, int64_t end) {
  Pairs<T> pairs(a, b);
  uint8_t changed[kBlock];
  int32_t changes[kBlock + 8];
  int64_t run = begin;  // where the run began that has not ended yet
  for (int64_t block = begin + 1; block < end; block += kBlock) {
    const int64_t here = std::min(kBlock, end - block);
    run_here<MarkChanges<T>>(a + block, b + block, here, changed);
    std::fill(changed + here, changed + kBlock, uint8_t(0));
    const int64_t count = places_of_ones(changed, changes);
    for (int64_t i = 0; i < count; ++i) {
      pairs.add(run, block + changes[i] - run);
      run = block + changes[i];
    }
  }
  if (begin < end) pairs.add(run, end - run);
  return pairs;
}

template <class T>
std::tuple<at::Tensor, at::Tensor> count_typed(const at::Tensor& first, const at::Tensor& second) {
  const T *a = first.const_data_ptr<T>(), *b = second.const_data_ptr<T>();
  const int64_t size = first.numel(), parts = at::divup(size, kPart);
  std::vector<Pairs<T>> of_part(parts, Pairs<T>(a, b));
  at::parallel_for(0, parts, 1, [&](int64_t from, int64_t to) {
    for (int64_t i = from; i < to; ++i) of_part[i] = count_range(a, b, i * kPart, std::min(size, (i + 1) * kPart));
  });
  Pairs<T> pairs(a, b);
  for (const auto& part : of_part)
    for (size_t i = 0; i < part.places.size(); ++i) pairs.add(part.places[i], part.counts[i]);
  const int64_t found = int64_t(pairs.places.size());
  auto places = at::empty({found}, first.options().dtype(at::kLong)), counts = at::empty_like(places);
  std::copy(pairs.places.begin(), pairs.places.end(), places.mutable_data_ptr<int64_t>());
  std::copy(pairs.counts.begin(), pairs.counts.end(), counts.mutable_data_ptr<int64_t>());
  return {places, counts};
}

std::tuple<at::Tensor, at::Tensor> count_pairs(const at::Tensor& first, const at::Tensor& second) {
  TORCH_CHECK(first.scalar_type() == second.scalar_type() && first.sizes() == second.sizes() &&
                  first.is_contiguous() && second.is_contiguous(),
              "count_pairs: expected two contiguous maps of one size and dtype, got ", first.sizes(), " of ",
              first.scalar_type(), " and ", second.sizes(), " of ", second.scalar_type());
  switch (first.scalar_type()) {
    case at::kByte:
      return count_typed<uint8_t>(first, second);
    case at::kShort:
      return count_typed<int16_t>(first, second);
    case at::kInt:
      return count_typed<int32_t>(first, second);
    case at::kLong:
      return count_typed<int64_t>(first, second);
    default:
      TORCH_CHECK(false, "count_pairs: expected uint8, int16, int32 or int64 labels, got ", first.scalar_type());
  }
}

// known[i] becomes i + 1, and 0 stays 0. What is neither becomes 0 too, and is counted in pixels.
template <class T>
int64_t number_typed(const int32_t* labels, int64_t size, const std::unordered_map<int32_t, int64_t>& number,
                     T* target) {
  int64_t unknown = 0;
  for (int64_t start = 0, end; start < size; start = end) {
    const int32_t label = labels[start];
    for (end = start + 1; end < size && labels[end] == label;) ++end;
    const auto found = number.find(label);
    const int64_t value = found == number.end() ? 0 : found->second;
    if (found == number.end() && label != 0) unknown += end - start;
    std::fill(target + start, target + end, T(value));
  }
  return unknown;
}

std::tuple<at::Tensor, int64_t> number_labels(const at::Tensor& labels, const at::Tensor& known) {
  TORCH_CHECK(labels.scalar_type() == at::kInt && labels.is_contiguous() && known.scalar_type() == at::kLong &&
                  known.dim() == 1 && known.is_contiguous() && known.numel() <= 65535,
              "number_labels: expected a contiguous int32 map and at most 65535 int64 labels, got ",
              labels.scalar_type(), " and ", known.sizes(), " of ", known.scalar_type());
  std::unordered_map<int32_t, int64_t> number;
  for (int64_t i = 0; i < known.numel(); ++i) number[int32_t(known.const_data_ptr<int64_t>()[i])] = i + 1;
  const bool fits_byte = known.numel() <= 255;
  auto output = at::empty(labels.sizes(), labels.options().dtype(fits_byte ? at::kByte : at::kShort));
  const int32_t* source = labels.const_data_ptr<int32_t>();
  const int64_t unknown =
      fits_byte ? number_typed(source, labels.numel(), number, output.mutable_data_ptr<uint8_t>())
                : number_typed(source, labels.numel(), number, output.mutable_data_ptr<int16_t>());
  return {output, unknown};
}

}  // namespace

TORCH_LIBRARY_IMPL(segcore_native, CPU, m) {
  m.impl("count_pairs", &count_pairs);
  m.impl("number_labels", &number_labels);
}

}  // namespace segcore
