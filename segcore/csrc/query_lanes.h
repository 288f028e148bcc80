// Products of a block of queries, one in each lane of V vectors, with numbers that all of them share.
#pragma once
#include "vec.h"

namespace {

typedef Vec<float> Floats;
constexpr int kWide = kLanes<float>;

// sums[i] += a[c][queries] * b(i, c) over the c, for kCount neighbours i; b(i, c) is b[i * neighbour + c * step].
template <int kCount, int V>
static inline void multiply(const float* a, int64_t depth, const float* b, int64_t neighbour, int64_t step,
                            Floats (*sums)[V]) {
  for (int64_t c = 0; c < depth; ++c, a += V * kWide, b += step) {
    Floats of_queries[V];
    for (int v = 0; v < V; ++v) of_queries[v] = load(a + v * kWide);
    for (int i = 0; i < kCount; ++i) {
      const Floats x = splat(b[i * neighbour]);
      for (int v = 0; v < V; ++v) sums[i][v] += of_queries[v] * x;
    }
  }
}

// Each of `places` numbers of every query, times the query's factor.
template <int V>
static inline void scale(float* numbers, int64_t places, const float* factor) {
  for (int64_t i = 0; i < places; ++i, numbers += V * kWide)
    for (int v = 0; v < V; ++v) store(numbers + v * kWide, load(numbers + v * kWide) * load(factor + v * kWide));
}

// Makes `most` what each query's weights are relative to, in place of `greatest`. Its sums so far must then be scaled by
// `factor`; returns whether that changes any.
template <int V>
static inline bool raise_greatest(float* greatest, const Floats* most, float* factor) {
  for (int v = 0; v < V; ++v) {
    store(factor + v * kWide, exponential(load(greatest + v * kWide) - most[v]));
    store(greatest + v * kWide, most[v]);
  }
  bool same = true;
  for (int i = 0; i < V * kWide; ++i) same &= factor[i] == 1.0f;
  return !same;
}

}  // namespace
