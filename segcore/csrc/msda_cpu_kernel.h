// Deformable attention on one image and head (Deformable DETR, arXiv:2010.04159, eq. 3).
//
// Included once per instruction set, after the target pragma. Everything is in an unnamed namespace, so that
// code built for one instruction set can never be linked into another's path.
//
// The head's map is contiguous (64 queries' taps stay in L1/L2); a tap is `padded` channels read as whole
// vectors. Taps outside the map read the zero row, which costs no branch and lets NaN weights through.
#pragma once
#include <cmath>

#include "msda_cpu.h"
#include "scratch.h"
#include "vec.h"

#if defined(__GNUC__) || defined(__clang__)
#define SEGCORE_PREFETCH(p) __builtin_prefetch(p)
#else
#define SEGCORE_PREFETCH(p)
#endif

namespace {

using segcore::MsdaGradients;
using segcore::MsdaProblem;

// Queries whose geometry is computed together: 4 * 12 points fill whole vectors.
constexpr int64_t kGroup = 4;

// Bilinear geometry of a group of queries; arrays hold kGroup * N entries.
template <class T>
struct Geometry {
  int64_t points;                    // N
  Scratch<T> width, height;      // of each point's level
  Scratch<int32_t> columns, rows, start;
  Scratch<T> x, y, weight;       // gathered inputs; weight is after the softmax
  Scratch<T> fx, fy;             // fractions
  Scratch<int32_t> offset;       // (4, kGroup * N) element offsets of the taps' rows
  Scratch<T> tap;                // (4, kGroup * N) weight * bilinear
  Scratch<T> dot;                    // (N, 4) backward only: <grad, row> of each tap

  explicit Geometry(const MsdaProblem<T>& p, bool backward) : points(p.levels * p.points) {
    const int64_t n = kGroup * points;
    width.resize(n), height.resize(n), columns.resize(n), rows.resize(n), start.resize(n);
    x.resize(n), y.resize(n), weight.resize(n), fx.resize(n), fy.resize(n), offset.resize(4 * n), tap.resize(4 * n);
    if (backward) dot.resize(4 * points + 8);  // written in whole vectors
    for (int64_t g = 0; g < kGroup; ++g) {
      int64_t first = 0;
      for (int64_t level = 0; level < p.levels; ++level) {
        for (int64_t i = 0; i < p.points; ++i) {
          const int64_t at = g * points + level * p.points + i;
          rows[at] = int32_t(p.shapes[2 * level]), columns[at] = int32_t(p.shapes[2 * level + 1]);
          height[at] = T(rows[at]), width[at] = T(columns[at]);
          start[at] = int32_t(first);
        }
        first += p.shapes[2 * level] * p.shapes[2 * level + 1];
      }
    }
  }
};

// Pixel coordinates (centres at integers) and weights of `count` queries.
template <class T>
static void gather_inputs(const MsdaProblem<T>& p, int64_t image, int64_t head, int64_t query, int64_t count,
                          Geometry<T>& g) {
  const int64_t n = g.points;
  for (int64_t k = 0; k < count; ++k) {
    const int64_t at = ((image * p.queries + query + k) * p.heads + head) * n;
    const T* xy = p.points_xy + 2 * at;
    T *x = g.x.data() + k * n, *y = g.y.data() + k * n, *weight = g.weight.data() + k * n;
    std::memcpy(weight, p.weights + at, size_t(n) * sizeof(T));
    for (int64_t i = 0; i < n; ++i) x[i] = xy[2 * i], y[i] = xy[2 * i + 1];
  }
  T *x = g.x.data(), *y = g.y.data();
  const T *width = g.width.data(), *height = g.height.data();
  if (p.reference == nullptr) {
    for (int64_t i = 0; i < count * n; ++i) {
      x[i] = x[i] * width[i] - T(0.5);
      y[i] = y[i] * height[i] - T(0.5);
    }
    return;
  }
  for (int64_t k = 0; k < count; ++k) {
    const T* reference = p.reference + image * p.reference_step + (query + k) * p.levels * 2;
    for (int64_t level = 0; level < p.levels; ++level) {
      const int64_t at = k * n + level * p.points;
      const T centre_x = reference[2 * level] * width[at] - T(0.5);
      const T centre_y = reference[2 * level + 1] * height[at] - T(0.5);
      for (int64_t i = at; i < at + p.points; ++i) x[i] += centre_x, y[i] += centre_y;
    }
    T* weight = g.weight.data() + k * n;
    T peak = weight[0];
    for (int64_t i = 1; i < n; ++i) peak = weight[i] > peak ? weight[i] : peak;
    for (int64_t i = 0; i < n; ++i) weight[i] -= peak;
  }
  T* weight = g.weight.data();
  for (int64_t i = 0; i < count * n; ++i) weight[i] = exponential(weight[i]);
  for (int64_t k = 0; k < count; ++k) {
    T sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += weight[k * n + i];
    const T inverse = T(1) / sum;
    for (int64_t i = 0; i < n; ++i) weight[k * n + i] *= inverse;
  }
}

// Offsets and weights of the four taps of every point of the group.
template <class T>
static void locate_taps(const MsdaProblem<T>& p, int64_t count, Geometry<T>& g) {
  const int64_t n = count * g.points, stride = kGroup * g.points;
  const int32_t row_size = int32_t(p.padded), outside = int32_t(p.tokens) * row_size;
  const T *x = g.x.data(), *y = g.y.data(), *weight = g.weight.data();
  const T *width = g.width.data(), *height = g.height.data();
  const int32_t *columns = g.columns.data(), *rows = g.rows.data(), *start = g.start.data();
  T *fx = g.fx.data(), *fy = g.fy.data(), *tap = g.tap.data();
  int32_t* offset = g.offset.data();
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC ivdep
#endif
  for (int64_t i = 0; i < n; ++i) {
    const T floor_x = std::floor(x[i]), floor_y = std::floor(y[i]);
    const T dx = x[i] - floor_x, dy = y[i] - floor_y;
    // bounded before the conversion to int; NaN fails both comparisons and becomes "outside"
    T bounded_x = floor_x >= T(-2) ? floor_x : T(-2), bounded_y = floor_y >= T(-2) ? floor_y : T(-2);
    bounded_x = bounded_x <= width[i] ? bounded_x : width[i];
    bounded_y = bounded_y <= height[i] ? bounded_y : height[i];
    const int32_t column = int32_t(bounded_x), row = int32_t(bounded_y);
    const bool left = column >= 0 && column < columns[i], right = column >= -1 && column < columns[i] - 1;
    const bool top = row >= 0 && row < rows[i], bottom = row >= -1 && row < rows[i] - 1;
    const int32_t first = (start[i] + row * columns[i] + column) * row_size;
    const int32_t below = columns[i] * row_size;
    offset[i] = (top & left) ? first : outside;
    offset[stride + i] = (top & right) ? first + row_size : outside;
    offset[2 * stride + i] = (bottom & left) ? first + below : outside;
    offset[3 * stride + i] = (bottom & right) ? first + below + row_size : outside;
    tap[i] = (1 - dx) * (1 - dy) * weight[i];
    tap[stride + i] = dx * (1 - dy) * weight[i];
    tap[2 * stride + i] = (1 - dx) * dy * weight[i];
    tap[3 * stride + i] = dx * dy * weight[i];
    fx[i] = dx;
    fy[i] = dy;
  }
}

// output[0 .. padded) = sum of tap * row. NV: vectors per row at compile time.
template <class T, int NV>
static inline void gather_rows(const T* map, const Geometry<T>& g, int64_t k, T* output) {
  const int64_t n = g.points, stride = kGroup * n;
  Vec<T> even[NV], odd[NV];
  for (int j = 0; j < NV; ++j) even[j] = odd[j] = splat(T(0));
  for (int64_t i = k * n; i < (k + 1) * n; ++i) {
    for (int corner = 0; corner < 4; corner += 2) {
      const T* a = map + g.offset[corner * stride + i];
      const T* b = map + g.offset[(corner + 1) * stride + i];
      const Vec<T> wa = splat(g.tap[corner * stride + i]), wb = splat(g.tap[(corner + 1) * stride + i]);
      for (int j = 0; j < NV; ++j) {
        even[j] += wa * load(a + j * kLanes<T>);
        odd[j] += wb * load(b + j * kLanes<T>);
      }
    }
  }
  for (int j = 0; j < NV; ++j) store(output + j * kLanes<T>, even[j] + odd[j]);
}

template <class T>
static void gather_any(const T* map, const Geometry<T>& g, int64_t k, int64_t padded, T* output) {
  constexpr int kStep = 4 * kLanes<T>;
  int64_t c = 0;
  for (; c + kStep <= padded; c += kStep) gather_rows<T, 4>(map + c, g, k, output + c);
  for (; c < padded; c += kLanes<T>) gather_rows<T, 1>(map + c, g, k, output + c);
}

template <class T>
static void forward(const MsdaProblem<T>& p, int64_t image, int64_t head, int64_t begin, int64_t end, T* output) {
  Geometry<T> g(p, false);
  Scratch<T> row(p.padded);
  const T* map = p.value + (image * p.heads + head) * (p.tokens + 1) * p.padded;
  for (int64_t query = begin; query < end; query += kGroup) {
    const int64_t count = smaller(kGroup, end - query);
    gather_inputs(p, image, head, query, count, g);
    locate_taps(p, count, g);
    for (int64_t k = 0; k < count; ++k) {
      T* target = output + ((image * p.queries + query + k) * p.heads + head) * p.channels;
      if (p.padded == p.channels) {
        gather_any(map, g, k, p.padded, target);
      } else {
        gather_any(map, g, k, p.padded, row.data());
        std::memcpy(target, row.data(), size_t(p.channels) * sizeof(T));
      }
    }
  }
}

// Adds tap * grad to the map's gradient and returns each tap's <grad, row> in g.dot[4 * point + corner].
template <class T, int NV, bool First>
static inline void scatter_rows(const T* map, T* grad_map, const T* grad, Geometry<T>& g, int64_t k) {
  const int64_t n = g.points, stride = kGroup * n;
  constexpr int kPoints = kLanes<T> / 4;  // points whose four dots fill one vector
  Vec<T> top[NV];
  for (int j = 0; j < NV; ++j) top[j] = load(grad + j * kLanes<T>);
  for (int64_t i = 0; i < n; i += kPoints) {
    Vec<T> partial[kLanes<T>];
    const int here = int(smaller(kPoints, n - i));
    if (here < kPoints)
      for (int t = 4 * here; t < kLanes<T>; ++t) partial[t] = splat(T(0));
    for (int t = 0; t < 4 * here; ++t) {
      const int64_t at = (t & 3) * stride + k * n + i + (t >> 2);
      const int32_t offset = g.offset[at];
      const T* row = map + offset;
      T* grad_row = grad_map + offset;
      const Vec<T> w = splat(g.tap[at]);
      Vec<T> sum = top[0] * load(row);
      for (int j = 1; j < NV; ++j) sum += top[j] * load(row + j * kLanes<T>);
      for (int j = 0; j < NV; ++j) {
        T* cell = grad_row + j * kLanes<T>;
        store(cell, load(cell) + w * top[j]);
      }
      partial[t] = sum;
    }
    T sums[kLanes<T>];
    sum_lanes(partial, sums);
    T* dot = g.dot.data() + 4 * i;
    for (int t = 0; t < kLanes<T>; ++t) dot[t] = First ? sums[t] : dot[t] + sums[t];
  }
}

template <class T>
static void scatter_any(const T* map, T* grad_map, const T* grad, Geometry<T>& g, int64_t k, int64_t padded) {
  constexpr int kStep = 4 * kLanes<T>;
  int64_t c = 0;
  bool first = true;
  for (; c + kStep <= padded; c += kStep, first = false) {
    if (first)
      scatter_rows<T, 4, true>(map + c, grad_map + c, grad + c, g, k);
    else
      scatter_rows<T, 4, false>(map + c, grad_map + c, grad + c, g, k);
  }
  for (; c < padded; c += kLanes<T>, first = false) {
    if (first)
      scatter_rows<T, 1, true>(map + c, grad_map + c, grad + c, g, k);
    else
      scatter_rows<T, 1, false>(map + c, grad_map + c, grad + c, g, k);
  }
}

// Gradients of one query's points and weights from the dots.
template <class T>
static void finish_query(const MsdaProblem<T>& p, Geometry<T>& g, int64_t k, T* grad_xy, T* grad_weights) {
  const int64_t n = g.points;
  const T *fx = g.fx.data() + k * n, *fy = g.fy.data() + k * n, *weight = g.weight.data() + k * n;
  const T *width = g.width.data(), *height = g.height.data(), *dot = g.dot.data();
  const bool fused = p.reference != nullptr;
  for (int64_t i = 0; i < n; ++i) {
    const T *d = dot + 4 * i, dx = fx[i], dy = fy[i];
    // pixel offsets have unit slope; normalised locations carry the size of their level
    const T slope_x = fused ? weight[i] : weight[i] * width[i];
    const T slope_y = fused ? weight[i] : weight[i] * height[i];
    grad_xy[2 * i] = slope_x * ((1 - dy) * (d[1] - d[0]) + dy * (d[3] - d[2]));
    grad_xy[2 * i + 1] = slope_y * ((1 - dx) * (d[2] - d[0]) + dx * (d[3] - d[1]));
    grad_weights[i] = (1 - dy) * ((1 - dx) * d[0] + dx * d[1]) + dy * ((1 - dx) * d[2] + dx * d[3]);
  }
  if (!fused) return;
  T mean = 0;
  for (int64_t i = 0; i < n; ++i) mean += weight[i] * grad_weights[i];
  for (int64_t i = 0; i < n; ++i) grad_weights[i] = weight[i] * (grad_weights[i] - mean);
}

template <class T>
static void backward(const MsdaProblem<T>& p, int64_t image, int64_t head, int64_t begin, int64_t end,
                     const MsdaGradients<T>& grads) {
  Geometry<T> g(p, true);
  Scratch<T> grad(p.padded);
  const int64_t n = g.points, map_size = (p.tokens + 1) * p.padded;
  const T* map = p.value + (image * p.heads + head) * map_size;
  T* grad_map = grads.value + head * map_size;
  for (int64_t query = begin; query < end; query += kGroup) {
    const int64_t count = smaller(kGroup, end - query);
    gather_inputs(p, image, head, query, count, g);
    locate_taps(p, count, g);
    for (int64_t k = 0; k < count; ++k) {
      const int64_t at = (image * p.queries + query + k) * p.heads + head;
      std::memcpy(grad.data(), grads.output + at * p.channels, size_t(p.channels) * sizeof(T));
      scatter_any(map, grad_map, grad.data(), g, k, p.padded);
      finish_query(p, g, k, grads.points_xy + 2 * at * n, grads.weights + at * n);
    }
  }
}

}  // namespace
