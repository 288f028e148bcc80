// Attention with a mask or a bias, for heads of few channels: neither scores nor weights leave the cache.
//
// Lanes are queries. Keys and values are taken in tiles; the greatest score of each query so far is what its weights are
// relative to, and when it grows all sums so far are scaled (online softmax, arXiv:1805.02867).
#pragma once
#include "ma_cpu.h"
#include "query_lanes.h"
#include "scratch.h"

namespace {

using segcore::MaProblem;

constexpr int64_t kTile = 64;         // keys
constexpr float kForbidden = -1e30f;  // a finite score, so that differences from it are numbers; its weight is 0

// What the block needs of a tile of keys, side by side: in the tensors a head's channels may lie far apart.
static void copy_tile(const float* source, int64_t step, int64_t count, int64_t channels, float* target) {
  for (int64_t i = 0; i < count; ++i)
    std::memcpy(target + i * channels, source + i * step, size_t(channels) * sizeof(float));
}

#ifdef SEGCORE_VECTORS
typedef int8_t Bytes __attribute__((vector_size(kWide)));

static inline Floats where_allowed(const uint8_t* allowed, const Floats& score) {
  Bytes bytes;
  std::memcpy(&bytes, allowed, sizeof(bytes));
  return __builtin_convertvector(bytes, IntVec) != 0 ? score : splat(kForbidden);
}
#else
static inline Floats where_allowed(const uint8_t* allowed, Floats score) {
  for (int i = 0; i < kWide; ++i) score[i] = allowed[i] ? score[i] : kForbidden;
  return score;
}
#endif

// A block of V vectors of queries.
template <int V>
struct Block {
  static constexpr int64_t kSize = V * kWide;
  static constexpr int kKeys = V == 4 ? 6 : 4;  // whose scores are kept in registers

  const MaProblem& p;
  Scratch<float> query, scores, sums, keys, values;  // (D, block), (tile, block), (D, block), (tile, D) twice
  alignas(64) float greatest[kSize];
  Floats all[V];  // sums of weights

  explicit Block(const MaProblem& problem)
      : p(problem), query(p.channels * kSize), scores(kTile * kSize), sums(p.channels * kSize),
        keys(kTile * p.channels), values(kTile * p.channels) {}

  void attend(int64_t image, int64_t head, int64_t first) {
    start(p.query.data + image * p.query.image + head * p.query.head, first);
    const float* key = p.key.data + image * p.key.image + head * p.key.head;
    const float* value = p.value.data + image * p.value.image + head * p.value.head;
    for (int64_t k = 0; k < p.keys; k += kTile) {
      const int64_t count = smaller(kTile, p.keys - k);
      copy_tile(key + k * p.key.place, p.key.place, count, p.channels, keys.data());
      copy_tile(value + k * p.value.place, p.value.place, count, p.channels, values.data());
      score(count);
      const int64_t here = (image * p.keys + k) * p.queries + first;
      if (p.bias) add(p.bias + (head * p.keys + k) * p.queries + first, count, first);
      if (p.added) add(p.added + here, count, first);
      if (p.allowed) forbid(p.allowed + here, count, first);
      weigh(count, k == 0);
      sum(count);
    }
    finish(p.output.data + image * p.output.image + head * p.output.head, first);
  }

  // Channels apart; past the last query they are 0.
  void start(const float* queries, int64_t first) {
    for (int64_t i = 0; i < kSize; ++i)
      for (int64_t c = 0; c < p.channels; ++c)
        query[c * kSize + i] = first + i < p.queries ? queries[(first + i) * p.query.place + c] * p.scale : 0.0f;
    for (int64_t i = 0; i < p.channels * kSize; ++i) sums[i] = 0.0f;
    for (int64_t i = 0; i < kSize; ++i) greatest[i] = kForbidden;
    for (int v = 0; v < V; ++v) all[v] = Floats{};
  }

  template <int kCount>
  void score_keys(int64_t k) {
    Floats found[kCount][V] = {};
    multiply<kCount, V>(query.data(), p.channels, keys.data() + k * p.channels, p.channels, 1, found);
    for (int i = 0; i < kCount; ++i)
      for (int v = 0; v < V; ++v) store(scores.data() + (k + i) * kSize + v * kWide, found[i][v]);
  }

  void score(int64_t count) {
    int64_t k = 0;
    for (; k + kKeys <= count; k += kKeys) score_keys<kKeys>(k);
    for (; k < count; ++k) score_keys<1>(k);
  }

  // Whole vectors while they last: what lies after the last query is another key's, or nobody's.
  template <class Change, class ChangeOne>
  void change(int64_t count, int64_t first, Change change_vector, ChangeOne change_one) {
    const int64_t mine = smaller(kSize, p.queries - first);
    for (int64_t k = 0; k < count; ++k) {
      float* row = scores.data() + k * kSize;
      int64_t i = 0;
      for (; i + kWide <= mine; i += kWide) store(row + i, change_vector(k * p.queries + i, load(row + i)));
      for (; i < mine; ++i) row[i] = change_one(k * p.queries + i, row[i]);
    }
  }

  void add(const float* bias, int64_t count, int64_t first) {
    change(
        count, first, [&](int64_t i, const Floats& x) { return x + load(bias + i); },
        [&](int64_t i, float x) { return x + bias[i]; });
  }

  void forbid(const uint8_t* allowed, int64_t count, int64_t first) {
    change(
        count, first, [&](int64_t i, const Floats& x) { return where_allowed(allowed + i, x); },
        [&](int64_t i, float x) { return allowed[i] ? x : kForbidden; });
  }

  // Scores to weights, relative to the greatest score so far.
  void weigh(int64_t count, bool is_first) {
    Floats most[V];
    for (int v = 0; v < V; ++v) most[v] = load(greatest + v * kWide);
    for (int64_t k = 0; k < count; ++k)
      for (int v = 0; v < V; ++v) most[v] = maximum(load(scores.data() + k * kSize + v * kWide), most[v]);
    alignas(64) float factor[kSize];
    const bool grew = raise_greatest<V>(greatest, most, factor);
    for (int v = 0; v < V; ++v) all[v] = all[v] * load(factor + v * kWide);
    if (grew && !is_first) scale<V>(sums.data(), p.channels, factor);
    for (int64_t k = 0; k < count; ++k)
      for (int v = 0; v < V; ++v) {
        float* at = scores.data() + k * kSize + v * kWide;
        const Floats weight = exponential(load(at) - most[v]);
        store(at, weight);
        all[v] += weight;
      }
  }

  // sums[c] += weights[k] * values[k][c], kKeys channels at a time.
  template <int kCount>
  void sum_channels(int64_t count, int64_t c) {
    Floats found[kCount][V];
    for (int i = 0; i < kCount; ++i)
      for (int v = 0; v < V; ++v) found[i][v] = load(sums.data() + (c + i) * kSize + v * kWide);
    multiply<kCount, V>(scores.data(), count, values.data() + c, 1, p.channels, found);
    for (int i = 0; i < kCount; ++i)
      for (int v = 0; v < V; ++v) store(sums.data() + (c + i) * kSize + v * kWide, found[i][v]);
  }

  void sum(int64_t count) {
    int64_t c = 0;
    for (; c + kKeys <= p.channels; c += kKeys) sum_channels<kKeys>(count, c);
    for (; c + 2 <= p.channels; c += 2) sum_channels<2>(count, c);
    for (; c < p.channels; ++c) sum_channels<1>(count, c);
  }

  void finish(float* output, int64_t first) {
    alignas(64) float inverse[kSize];
    for (int v = 0; v < V; ++v) store(inverse + v * kWide, all[v]);
    for (float& x : inverse) x = 1.0f / x;
    const int64_t mine = smaller(kSize, p.queries - first);
    for (int64_t i = 0; i < mine; ++i)
      for (int64_t c = 0; c < p.channels; ++c)
        output[(first + i) * p.output.place + c] = sums[c * kSize + i] * inverse[i];
  }
};

template <int V>
static void attend_all(const MaProblem& p, int64_t begin, int64_t end) {
  const int64_t blocks = (p.queries + Block<V>::kSize - 1) / Block<V>::kSize;
  Block<V> block(p);
  for (int64_t task = begin; task < end; ++task)
    block.attend(task / blocks / p.heads, task / blocks % p.heads, task % blocks * Block<V>::kSize);
}

// 6 keys x 4 vectors or 4 x 5 of AVX-512's 32 registers, whichever leaves fewer lanes empty; 4 x 2 of the others' 16.
static int64_t block_size(int64_t queries) {
#if SEGCORE_VECTOR_BYTES == 64
  const int64_t four = (queries + 4 * kWide - 1) / (4 * kWide) * 4, five = (queries + 5 * kWide - 1) / (5 * kWide) * 5;
  return (four <= five ? 4 : 5) * kWide;
#else
  return 2 * kWide;
#endif
}

static void forward(const MaProblem& p, int64_t begin, int64_t end) {
#if SEGCORE_VECTOR_BYTES == 64
  if (block_size(p.queries) == 4 * kWide)
    attend_all<4>(p, begin, end);
  else
    attend_all<5>(p, begin, end);
#else
  attend_all<2>(p, begin, end);
#endif
}

}  // namespace
