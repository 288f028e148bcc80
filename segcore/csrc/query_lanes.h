// Products of a block of queries, one in each lane of V vectors, with numbers that all of them share.
#pragma once
#include "vec.h"

namespace {

typedef Vec<float> Floats;
constexpr int kWide = kLanes<float>;

// sums[i] += a[c][queries] * b[i][c] over the c, for kCount neighbours i whose b lie `step` apart.
template <int kCount, int V>
static inline void multiply(const float* a, int64_t depth, const float* b, int64_t step, Floats (*sums)[V]) {
  for (int64_t c = 0; c < depth; ++c, a += V * kWide) {
    Floats of_queries[V];
    for (int v = 0; v < V; ++v) of_queries[v] = load(a + v * kWide);
    for (int i = 0; i < kCount; ++i) {
      const Floats x = splat(b[i * step + c]);
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

}  // namespace
