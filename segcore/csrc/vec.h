// 32-byte vectors (8 floats or 4 doubles) for the CPU kernels.
//
// 256 bits for every instruction set: wider vectors spill on AVX2 and gain nothing where 512-bit
// multiply-adds are double pumped. Compilers without GCC's vector extension get plain loops.
#pragma once
#include <cstdint>
#include <cstring>

namespace {

template <class T>
constexpr int kLanes = 32 / int(sizeof(T));

#if defined(__GNUC__) || defined(__clang__)

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

#if defined(__clang__) || (defined(__GNUC__) && __GNUC__ >= 12)
#define SEGCORE_SHUFFLE 1
#endif

// out[i] = sum over the lanes of v[i], for kLanes vectors at once: a transpose by pairwise adds.
static inline void sum_lanes(const Vec<float>* v, float* out) {
#ifdef SEGCORE_SHUFFLE
  auto pair = [](Vec<float> a, Vec<float> b) {
    return __builtin_shufflevector(a, b, 0, 2, 8, 10, 4, 6, 12, 14) +
           __builtin_shufflevector(a, b, 1, 3, 9, 11, 5, 7, 13, 15);
  };
  Vec<float> low = pair(pair(v[0], v[1]), pair(v[2], v[3]));   // halves of 0 1 2 3 | 0 1 2 3
  Vec<float> high = pair(pair(v[4], v[5]), pair(v[6], v[7]));
  store(out, __builtin_shufflevector(low, high, 0, 1, 2, 3, 8, 9, 10, 11) +
                 __builtin_shufflevector(low, high, 4, 5, 6, 7, 12, 13, 14, 15));
#else
  for (int i = 0; i < 8; ++i) {
    float sum = 0;
    for (int j = 0; j < 8; ++j) sum += v[i][j];
    out[i] = sum;
  }
#endif
}

static inline void sum_lanes(const Vec<double>* v, double* out) {
  for (int i = 0; i < 4; ++i) out[i] = (v[i][0] + v[i][1]) + (v[i][2] + v[i][3]);
}

static inline float exponential(float x) {
  // e^x = 2^n * e^r, |r| <= ln(2) / 2; Taylor's series to r^7 is below half a unit in the last place.
  // Written without branches so that loops over it vectorise. NaN stays NaN.
  float bounded = x < -88.0f ? -88.0f : (x > 88.0f ? 88.0f : x);
  float n = bounded * 1.44269504f;
  n = (n + 12582912.0f) - 12582912.0f;  // round to nearest: 1.5 * 2^23 pushes the fraction out
  float r = (bounded - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.0f / 5040;
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = (p * r) * r + r + 1.0f;
  float clean = n == n ? n : 0.0f;
  std::int32_t bits = (std::int32_t(clean) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof(power));
  return x < -87.0f ? 0.0f : p * power;
}

static inline double exponential(double x) { return __builtin_exp(x); }

}  // namespace
