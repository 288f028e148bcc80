// 32-byte vectors (8 floats or 4 doubles) for the CPU kernels.
//
// 256 bits for every instruction set: wider vectors spill on AVX2 and gain nothing where 512-bit
// multiply-adds are double pumped. Compilers without GCC's vector extension get plain loops.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

template <class T>
constexpr int kLanes = 32 / int(sizeof(T));

#if defined(__GNUC__) || defined(__clang__)
#define SEGCORE_VECTORS 1

template <class T>
struct VectorOf;
template <>
struct VectorOf<float> {
  typedef float type __attribute__((vector_size(32)));
};
template <>
struct VectorOf<double> {
  typedef double type __attribute__((vector_size(32)));
};
template <class T>
using Vec = typename VectorOf<T>::type;
typedef int32_t IntVec __attribute__((vector_size(32)));

static inline IntVec load_int(const int32_t* p) {
  IntVec v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}
static inline void store_int(int32_t* p, const IntVec& v) { std::memcpy(p, &v, sizeof(v)); }

#else

template <class T>
struct Vec {
  T lane[kLanes<T>];
  T& operator[](int i) { return lane[i]; }
  T operator[](int i) const { return lane[i]; }
  friend Vec operator+(Vec a, const Vec& b) {
    for (int i = 0; i < kLanes<T>; ++i) a.lane[i] += b.lane[i];
    return a;
  }
  friend Vec operator-(Vec a, const Vec& b) {
    for (int i = 0; i < kLanes<T>; ++i) a.lane[i] -= b.lane[i];
    return a;
  }
  friend Vec operator*(Vec a, const Vec& b) {
    for (int i = 0; i < kLanes<T>; ++i) a.lane[i] *= b.lane[i];
    return a;
  }
  Vec& operator+=(const Vec& b) { return *this = *this + b; }
};

#endif

template <class T>
static inline Vec<T> load(const T* p) {
  Vec<T> v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}

template <class T>
static inline void store(T* p, const Vec<T>& v) {
  std::memcpy(p, &v, sizeof(v));
}

template <class T>
static inline Vec<T> splat(T x) {
  Vec<T> v;
  for (int i = 0; i < kLanes<T>; ++i) v[i] = x;
  return v;
}

// a where mask > 0, else b; lane by lane.
template <class V>
static inline V where_positive(const V& mask, const V& a, const V& b) {
#ifdef SEGCORE_VECTORS
  return mask > 0 ? a : b;
#else
  V out;
  for (int i = 0; i < int(sizeof(V) / sizeof(mask[0])); ++i) out[i] = mask[i] > 0 ? a[i] : b[i];
  return out;
#endif
}

template <class V>
static inline V maximum(const V& a, const V& b) {
#ifdef SEGCORE_VECTORS
  return a > b ? a : b;
#else
  V out;
  for (int i = 0; i < int(sizeof(V) / sizeof(a[0])); ++i) out[i] = a[i] > b[i] ? a[i] : b[i];
  return out;
#endif
}

#if defined(__clang__) || (defined(__GNUC__) && __GNUC__ >= 12)
#define SEGCORE_SHUFFLE 1
#endif

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

// e^x of one number. e^x = 2^n * e^r, |r| <= ln(2) / 2; Taylor's series to r^7 errs less than rounding does.
// NaN stays NaN; below -87 it is 0.
static inline float exponential(float x) {
  const float bounded = x < -88.0f ? -88.0f : (x > 88.0f ? 88.0f : x);
  // round to nearest: adding 1.5 * 2^23 pushes the fraction out
  const float n = (bounded * 1.44269504f + 12582912.0f) - 12582912.0f;
  const float r = (bounded - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.0f / 5040;
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = (p * r) * r + r + 1.0f;
  const std::int32_t bits = (std::int32_t(n == n ? n : 0.0f) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof(power));
  return x < -87.0f ? 0.0f : p * power;
}

static inline double exponential(double x) { return std::exp(x); }

#ifdef SEGCORE_VECTORS
static inline Vec<float> exponential(Vec<float> x) {
  const Vec<float> low = splat(-88.0f), high = splat(88.0f), zero = {};
  Vec<float> bounded = x < low ? low : x;
  bounded = bounded > high ? high : bounded;
  const Vec<float> n = (bounded * 1.44269504f + 12582912.0f) - 12582912.0f;
  const Vec<float> r = (bounded - n * 0.693359375f) + n * 2.12194440e-4f;
  Vec<float> p = zero + 1.0f / 5040;
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = (p * r) * r + r + 1.0f;
  const IntVec bits = (__builtin_convertvector(n == n ? n : zero, IntVec) + 127) << 23;
  Vec<float> power;
  std::memcpy(&power, &bits, sizeof(power));
  return x < -87.0f ? zero : p * power;
}
#endif

// In place; may touch the rest of the last vector.
static inline void exponentials(float* x, int64_t count) {
#ifdef SEGCORE_VECTORS
  for (int64_t i = 0; i < count; i += 8) store(x + i, exponential(load(x + i)));
#else
  for (int64_t i = 0; i < count; ++i) x[i] = exponential(x[i]);
#endif
}
static inline void exponentials(double* x, int64_t count) {
  for (int64_t i = 0; i < count; ++i) x[i] = exponential(x[i]);
}

}  // namespace
