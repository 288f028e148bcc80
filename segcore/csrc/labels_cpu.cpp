// Label maps in one pass: on how many pixels each pair of labels falls, and segment ids to their numbers.
//
// Labels change every few dozen pixels: where they stay as they are a pixel costs a comparison, and only the first one
// of a run is looked up.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "inline_for.h"

namespace segcore {
namespace {

// Distinct pairs in order of appearance: the place where each was seen first, and on how many pixels.
template <class T>
class Pairs {
 public:
  struct Entry {
    T first, second;
    int64_t place, pixels;
  };

  Pairs() : slots_(256, -1) {}

  void add(T first, T second, int64_t place, int64_t pixels) {
    uint64_t slot = hash(first, second) & (slots_.size() - 1);
    for (; slots_[slot] >= 0; slot = (slot + 1) & (slots_.size() - 1)) {
      Entry& entry = entries[slots_[slot]];
      if (entry.first == first && entry.second == second) {
        entry.pixels += pixels;
        return;
      }
    }
    slots_[slot] = int32_t(entries.size());
    entries.push_back({first, second, place, pixels});
    if (2 * entries.size() > slots_.size()) grow();
  }

  std::vector<Entry> entries;

 private:
  static uint64_t hash(T first, T second) {
    const uint64_t word = uint64_t(first) * 0x9e3779b97f4a7c15ULL + uint64_t(second);
    return (word * 0xd6e8feb86659fd93ULL) >> 32;
  }

  void grow() {
    slots_.assign(2 * slots_.size(), -1);
    for (size_t i = 0; i < entries.size(); ++i) {
      uint64_t slot = hash(entries[i].first, entries[i].second) & (slots_.size() - 1);
      while (slots_[slot] >= 0) slot = (slot + 1) & (slots_.size() - 1);
      slots_[slot] = int32_t(i);
    }
  }

  std::vector<int32_t> slots_;
};

// The first pixel from `from` on that differs from its predecessor; `size` if there is none.
template <class T>
struct NextChange {
  static SEGCORE_ALWAYS_INLINE int64_t run(const T* first, const T* second, int64_t from, int64_t size) {
    from = skip<128 / sizeof(T)>(first, second, from, size);
    from = skip<32 / sizeof(T)>(first, second, from, size);
    while (from < size && first[from] == first[from - 1] && second[from] == second[from - 1]) ++from;
    return from;
  }

  // Whole blocks without a change.
  template <int64_t Block>
  static SEGCORE_ALWAYS_INLINE int64_t skip(const T* first, const T* second, int64_t from, int64_t size) {
    for (; from + Block <= size; from += Block) {
      T changed = 0;
      for (int64_t i = from; i < from + Block; ++i)
        changed |= T(first[i] ^ first[i - 1]) | T(second[i] ^ second[i - 1]);
      if (changed) break;
    }
    return from;
  }
};

template <class T>
std::tuple<at::Tensor, at::Tensor> count_typed(const at::Tensor& first, const at::Tensor& second) {
  const T *a = first.const_data_ptr<T>(), *b = second.const_data_ptr<T>();
  const int64_t size = first.numel();
  Pairs<T> pairs;
  for (int64_t start = 0; start < size;) {
    const int64_t end = run_here<NextChange<T>>(a, b, start + 1, size);
    pairs.add(a[start], b[start], start, end - start);
    start = end;
  }
  const auto& entries = pairs.entries;
  auto places = at::empty({int64_t(entries.size())}, first.options().dtype(at::kLong)), counts = at::empty_like(places);
  for (size_t i = 0; i < entries.size(); ++i) {
    places.mutable_data_ptr<int64_t>()[i] = entries[i].place;
    counts.mutable_data_ptr<int64_t>()[i] = entries[i].pixels;
  }
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
