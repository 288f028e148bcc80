// Lanes of 32-byte vectors rearranged, for deformable attention.
#pragma once
#include "vec.h"

namespace {

// Lane i of the result is the sum of v[i]'s lanes: a transpose by pairwise adds.
static inline Vec<float> sum_lanes(const Vec<float>* v) {
#ifdef SEGCORE_SHUFFLE
  auto pair = [](Vec<float> a, Vec<float> b) {
    return __builtin_shufflevector(a, b, 0, 2, 8, 10, 4, 6, 12, 14) +
           __builtin_shufflevector(a, b, 1, 3, 9, 11, 5, 7, 13, 15);
  };
  const Vec<float> low = pair(pair(v[0], v[1]), pair(v[2], v[3]));  // half sums of 0 1 2 3, twice
  const Vec<float> high = pair(pair(v[4], v[5]), pair(v[6], v[7]));
  return __builtin_shufflevector(low, high, 0, 1, 2, 3, 8, 9, 10, 11) +
         __builtin_shufflevector(low, high, 4, 5, 6, 7, 12, 13, 14, 15);
#else
  Vec<float> sums;
  for (int i = 0; i < 8; ++i)
    sums[i] = ((v[i][0] + v[i][1]) + (v[i][2] + v[i][3])) + ((v[i][4] + v[i][5]) + (v[i][6] + v[i][7]));
  return sums;
#endif
}

static inline Vec<double> sum_lanes(const Vec<double>* v) {
  Vec<double> sums;
  for (int i = 0; i < 4; ++i) sums[i] = (v[i][0] + v[i][1]) + (v[i][2] + v[i][3]);
  return sums;
}

// x y x y ... -> x x ..., y y ...; one vector of each.
template <class T>
static inline void split_pairs(const T* xy, T* x, T* y) {
  for (int i = 0; i < kLanes<T>; ++i) x[i] = xy[2 * i], y[i] = xy[2 * i + 1];
}
#ifdef SEGCORE_SHUFFLE
static inline void split_pairs(const float* xy, float* x, float* y) {
  const Vec<float> a = load(xy), b = load(xy + 8);
  store(x, __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14));
  store(y, __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15));
}
#endif

}  // namespace
