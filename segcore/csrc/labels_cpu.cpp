// Label maps in one pass: on how many pixels each pair of labels falls, and segment ids to their numbers.
//
// Labels change every few dozen pixels: where they stay as they are a pixel costs a comparison, and only the first one
// of a run is looked up. Where they change is marked for a block of pixels at once, which is vectorised. That is about as
// fast as memory, and so on one thread: a second saves some 30 us of 480x640 pixels, but where other programs keep the
// cores busy, waiting for it takes milliseconds.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
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

// Pixels whose changes are marked at a time; a multiple of 64. Few: the next block is then on its way from memory while
// the pairs of this one are counted.
constexpr int64_t kBlock = 256;

// Distinct pairs in order of appearance, and on how many pixels each was seen.
template <class T>
class Pairs {
 public:
  struct Pair {
    T first, second;
    int64_t pixels;
  };

  Pairs() : slots_(1024, -1) {}

  SEGCORE_ALWAYS_INLINE void add(const Pair& pair) {
    const uint64_t slot = slot_of(pair);
    if (slots_[slot] < 0)
      insert(slot, pair);
    else
      pairs[slots_[slot]].pixels += pair.pixels;
  }

  std::vector<Pair> pairs;

 private:
  // Where the pair is, or the free slot where it belongs.
  SEGCORE_ALWAYS_INLINE uint64_t slot_of(const Pair& pair) const {
    const uint64_t last = slots_.size() - 1;
    uint64_t slot = (uint64_t(pair.first) * 0x9e3779b97f4a7c15ULL + uint64_t(pair.second)) * 0xd6e8feb86659fd93ULL >> 32;
    for (slot &= last; slots_[slot] >= 0; slot = (slot + 1) & last) {
      const Pair& known = pairs[slots_[slot]];
      if ((known.first == pair.first) & (known.second == pair.second)) break;
    }
    return slot;
  }

  // Three quarters of the slots stay free: a look-up that finds another pair first is a branch that fails.
  void insert(uint64_t slot, const Pair& pair) {
    slots_[slot] = int64_t(pairs.size());
    pairs.push_back(pair);
    if (4 * pairs.size() <= slots_.size()) return;
    slots_.assign(4 * slots_.size(), -1);
    for (size_t i = 0; i < pairs.size(); ++i) slots_[slot_of(pairs[i])] = int64_t(i);
  }

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

// Calls visit(place) for each 1 among kBlock bytes of 0 or 1, in order.
template <class Visit>
SEGCORE_ALWAYS_INLINE void for_each_one(const uint8_t* bytes, const Visit& visit) {
#if defined(__GNUC__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
  for (int64_t i = 0; i < kBlock; i += 64) {
    uint64_t bits = 0;
    for (int64_t j = 0; j < 64; j += 8) {
      uint64_t word;
      std::memcpy(&word, bytes + i + j, 8);
      bits |= (word * 0x0102040810204080ULL >> 56) << j;
    }
    for (; bits; bits &= bits - 1) visit(i + __builtin_ctzll(bits));
  }
#else
  for (int64_t i = 0; i < kBlock; ++i)
    if (bytes[i]) visit(i);
#endif
}

template <class T>
Pairs<T> pairs_of(const T* first, const T* second, int64_t size) {
  Pairs<T> pairs;
  if (size == 0) return pairs;
  uint8_t changed[kBlock];
  int64_t run = 0;  // where the run began that has not ended yet
  const auto end_run = [&](int64_t place) {
    pairs.add({first[run], second[run], place - run});
    run = place;
  };
  for (int64_t block = 1; block < size; block += kBlock) {
    const int64_t here = std::min(kBlock, size - block);
    run_here<MarkChanges<T>>(first + block, second + block, here, changed);
    std::fill(changed + here, changed + kBlock, uint8_t(0));
    for_each_one(changed, [&](int64_t i) { end_run(block + i); });
  }
  end_run(size);
  return pairs;
}

template <class T>
at::Tensor count_typed(const at::Tensor& first, const at::Tensor& second) {
  const auto found = pairs_of(first.const_data_ptr<T>(), second.const_data_ptr<T>(), first.numel());
  const int64_t size = int64_t(found.pairs.size());
  auto table = at::empty({3, size}, first.options().dtype(at::kLong));
  int64_t* column = table.mutable_data_ptr<int64_t>();
  for (const auto& pair : found.pairs) {
    column[0] = int64_t(pair.first);
    column[size] = int64_t(pair.second);
    column[2 * size] = pair.pixels;
    ++column;
  }
  return table;
}

// (3, pairs): label in `first`, label in `second`, pixels; in order of appearance.
at::Tensor count_pairs(const at::Tensor& first, const at::Tensor& second) {
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
