// Vectors for the CPU kernels: 32 bytes (8 floats or 4 doubles), unless the file that includes this says otherwise by
// SEGCORE_VECTOR_BYTES. Wider vectors than the instruction set's own spill.
//
// Compilers without GCC's vector extension get plain loops.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

namespace {

#ifndef SEGCORE_VECTOR_BYTES
#define SEGCORE_VECTOR_BYTES 32
#endif

template <class T>
constexpr int kLanes = SEGCORE_VECTOR_BYTES / int(sizeof(T));

#if defined(__GNUC__) || defined(__clang__)
#define SEGCORE_VECTORS 1

template <class T>
struct VectorOf;
template <>
struct VectorOf<float> {
  typedef float type __attribute__((vector_size(SEGCORE_VECTOR_BYTES)));
};
template <>
struct VectorOf<double> {
  typedef double type __attribute__((vector_size(SEGCORE_VECTOR_BYTES)));
};
template <class T>
using Vec = typename VectorOf<T>::type;
typedef int32_t IntVec __attribute__((vector_size(SEGCORE_VECTOR_BYTES)));

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

#if defined(__clang__) || (defined(__GNUC__) && __GNUC__ >= 12)
#define SEGCORE_SHUFFLE 1
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
#ifdef SEGCORE_VECTORS
  return x - Vec<T>{};  // one broadcast (x - 0 is x to the bit); GCC would insert lane by lane what a loop assigns
#else
  Vec<T> v;
  for (int i = 0; i < kLanes<T>; ++i) v[i] = x;
  return v;
#endif
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

#ifdef SEGCORE_SHUFFLE
template <class V, size_t... I>
static inline void riffle_lanes(const V& a, const V& b, V& low, V& high, std::index_sequence<I...>) {
  constexpr size_t kCount = sizeof...(I);
  low = __builtin_shufflevector(a, b, int(I % 2 * kCount + I / 2)...);
  high = __builtin_shufflevector(a, b, int(I % 2 * kCount + (kCount + I) / 2)...);
}

// a0 b0 a1 b1 ...: the first and the second half of it.
template <class V>
static inline void riffle(const V& a, const V& b, V& low, V& high) {
  riffle_lanes(a, b, low, high, std::make_index_sequence<sizeof(V) / sizeof(a[0])>());
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
#else
static inline Vec<float> exponential(Vec<float> x) {
  for (int i = 0; i < kLanes<float>; ++i) x[i] = exponential(x[i]);
  return x;
}
#endif
static inline Vec<double> exponential(Vec<double> x) {
  for (int i = 0; i < kLanes<double>; ++i) x[i] = exponential(x[i]);
  return x;
}

// In place; may touch the rest of the last vector.
static inline void exponentials(float* x, int64_t count) {
#ifdef SEGCORE_VECTORS
  for (int64_t i = 0; i < count; i += kLanes<float>) store(x + i, exponential(load(x + i)));
#else
  for (int64_t i = 0; i < count; ++i) x[i] = exponential(x[i]);
#endif
}
static inline void exponentials(double* x, int64_t count) {
  for (int64_t i = 0; i < count; ++i) x[i] = exponential(x[i]);
}

}  // namespace
