// Deformable attention on one image and head (Deformable DETR, arXiv:2010.04159, eq. 3).
//
// Included once per instruction set, after the target pragma. Everything is in an unnamed namespace, so that
// code built for one instruction set can never be linked into another's path.
//
// The head's map is contiguous (64 queries' taps stay in L1/L2); a tap is `padded` channels read as whole
// vectors. Taps outside the map read the zero row, which costs no branch and lets NaN weights through.
#pragma once
#include "msda_cpu.h"
#include "msda_lanes.h"
#include "scratch.h"
#include "vec.h"

namespace {

using segcore::MsdaGradients;
using segcore::MsdaProblem;

// Queries whose geometry is computed together: 4 * 12 points fill whole vectors.
constexpr int64_t kGroup = 4;

// Numbers of levels and points of a query: as they come, and as in the released models, where the compiler unrolls
// the loops over them: a backward pass of 0.6 of the time. The forward pass gains nothing.
struct AnyCounts {
  int64_t levels, points;
  int64_t total() const { return levels * points; }
};
struct ReleasedCounts {
  static constexpr int64_t levels = 3, points = 4;
  static constexpr int64_t total() { return levels * points; }
};

// Bilinear geometry of a group of queries. Arrays hold kGroup * N entries, rounded up to whole vectors and the
// last vector's overhang: `stride`.
template <class T>
struct Geometry {
  int64_t points, stride;
  Scratch<T> width, height;  // of each point's level
  Scratch<int32_t> columns, rows, start;
  Scratch<T> xy, x, y, weight;  // gathered inputs; x, y in pixels, weight after the softmax
  Scratch<T> fx, fy;            // fractions
  Scratch<int32_t> offset;      // (4, stride) element offsets of the taps' rows
  Scratch<T> tap;               // (4, stride) weight * bilinear
  Scratch<T> dot;               // (4, stride) backward only: <grad, row> of each tap

  Geometry(const MsdaProblem<T>& p, bool backward) : points(p.levels * p.points) {
    stride = (kGroup * points + 7) / 8 * 8 + 8;
    width.resize(stride), height.resize(stride), columns.resize(stride), rows.resize(stride), start.resize(stride);
    xy.resize(2 * stride), x.resize(stride), y.resize(stride), weight.resize(stride);
    fx.resize(stride), fy.resize(stride), offset.resize(4 * stride), tap.resize(4 * stride);
    if (backward) dot.resize(4 * stride);
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

// Turns the logits of `count` queries, in g.weight, into softmax weights.
template <class T, class Counts>
static void softmax(int64_t count, const Counts& counts, Geometry<T>& g) {
  const int64_t n = counts.total();
  T* weight = g.weight.data();
  for (int64_t k = 0; k < count; ++k) {
    T peak = weight[k * n];
    for (int64_t i = k * n + 1; i < (k + 1) * n; ++i) peak = weight[i] > peak ? weight[i] : peak;
    for (int64_t i = k * n; i < (k + 1) * n; ++i) weight[i] -= peak;
  }
  exponentials(weight, count * n);
  for (int64_t k = 0; k < count; ++k) {
    T sum = 0;
    for (int64_t i = k * n; i < (k + 1) * n; ++i) sum += weight[i];
    const T inverse = T(1) / sum;
    for (int64_t i = k * n; i < (k + 1) * n; ++i) weight[i] *= inverse;
  }
}

// Pixel coordinates (centres at integers) and weights of `count` queries.
template <class T, class Counts>
static void gather_inputs(const MsdaProblem<T>& p, const Counts& counts, int64_t image, int64_t head, int64_t query,
                          int64_t count, Geometry<T>& g) {
  const int64_t n = counts.total();
  for (int64_t k = 0; k < count; ++k) {
    const int64_t at = ((image * p.queries + query + k) * p.heads + head) * n;
    std::memcpy(g.xy.data() + 2 * k * n, p.points_xy + 2 * at, size_t(2 * n) * sizeof(T));
    std::memcpy(g.weight.data() + k * n, p.weights + at, size_t(n) * sizeof(T));
  }
  T *x = g.x.data(), *y = g.y.data();
  for (int64_t i = 0; i < count * n; i += kLanes<T>) split_pairs(g.xy.data() + 2 * i, x + i, y + i);
  if (p.reference == nullptr) {
    const Vec<T> half = splat(T(0.5));
    for (int64_t i = 0; i < count * n; i += kLanes<T>) {
      store(x + i, load(x + i) * load(g.width.data() + i) - half);
      store(y + i, load(y + i) * load(g.height.data() + i) - half);
    }
    return;
  }
  for (int64_t k = 0; k < count; ++k) {
    const T* reference = p.reference + image * p.reference_step + (query + k) * counts.levels * 2;
    for (int64_t level = 0; level < counts.levels; ++level) {
      const int64_t at = k * n + level * counts.points;
      const T centre_x = reference[2 * level] * g.width[at] - T(0.5);
      const T centre_y = reference[2 * level + 1] * g.height[at] - T(0.5);
      for (int64_t i = at; i < at + counts.points; ++i) x[i] += centre_x, y[i] += centre_y;
    }
  }
  softmax(count, counts, g);
}

#ifdef SEGCORE_VECTORS
// Pixel below each coordinate, and the fraction. Coordinates outside [-2, size] are bounded: their taps lie outside
// the map all the same. NaN and infinity (x - x is NaN) go into the fraction.
static inline IntVec split_pixels(Vec<float> x, Vec<float> size, Vec<float>& fraction) {
  const Vec<float> low = splat(-2.0f);
  Vec<float> bounded = x > low ? x : low;
  bounded = bounded < size ? bounded : size;
  IntVec pixel = __builtin_convertvector(bounded, IntVec);                // towards zero
  pixel += __builtin_convertvector(pixel, Vec<float>) > bounded;          // a true comparison is -1
  fraction = (bounded - __builtin_convertvector(pixel, Vec<float>)) + (x - x);
  return pixel;
}

// Offsets and weights of the four taps of every point of the group, eight points at a time.
static void locate_taps(const MsdaProblem<float>& p, int64_t count, Geometry<float>& g) {
  const int64_t stride = g.stride;
  const IntVec zero = {}, row_size = zero + int32_t(p.padded), outside = zero + int32_t(p.tokens);
  float* tap = g.tap.data();
  int32_t* offset = g.offset.data();
  for (int64_t i = 0; i < count * g.points; i += 8) {
    Vec<float> dx, dy;
    const IntVec columns = load_int(g.columns.data() + i), rows = load_int(g.rows.data() + i);
    const IntVec column = split_pixels(load(g.x.data() + i), load(g.width.data() + i), dx);
    const IntVec row = split_pixels(load(g.y.data() + i), load(g.height.data() + i), dy);
    const IntVec left = (column >= 0) & (column < columns), right = (column >= -1) & (column < columns - 1);
    const IntVec top = (row >= 0) & (row < rows), bottom = (row >= -1) & (row < rows - 1);
    // token numbers relative to the zero row, so that masking them gives that row
    const IntVec first = load_int(g.start.data() + i) + row * columns + column - outside, below = first + columns;
    store_int(offset + i, (outside + (first & top & left)) * row_size);
    store_int(offset + stride + i, (outside + ((first + 1) & top & right)) * row_size);
    store_int(offset + 2 * stride + i, (outside + (below & bottom & left)) * row_size);
    store_int(offset + 3 * stride + i, (outside + ((below + 1) & bottom & right)) * row_size);
    const Vec<float> one = splat(1.0f), weight = load(g.weight.data() + i);
    const Vec<float> upper = (one - dy) * weight, lower = dy * weight;
    store(tap + i, (one - dx) * upper);
    store(tap + stride + i, dx * upper);
    store(tap + 2 * stride + i, (one - dx) * lower);
    store(tap + 3 * stride + i, dx * lower);
    store(g.fx.data() + i, dx);
    store(g.fy.data() + i, dy);
  }
}
#endif

// The same, one point at a time: for doubles, and for compilers without vector extensions.
template <class T>
static inline int32_t split_pixel(T x, T size, T& fraction) {
  T bounded = x > T(-2) ? x : T(-2);
  bounded = bounded < size ? bounded : size;
  int32_t pixel = int32_t(bounded);
  pixel -= T(pixel) > bounded ? 1 : 0;
  fraction = (bounded - T(pixel)) + (x - x);
  return pixel;
}

template <class T>
static void locate_taps(const MsdaProblem<T>& p, int64_t count, Geometry<T>& g) {
  for (int64_t i = 0; i < count * g.points; ++i) {
    T dx, dy;
    const int32_t column = split_pixel(g.x[i], g.width[i], dx), row = split_pixel(g.y[i], g.height[i], dy);
    for (int corner = 0; corner < 4; ++corner) {
      const int32_t r = row + corner / 2, c = column + corner % 2;
      const bool inside = r >= 0 && r < g.rows[i] && c >= 0 && c < g.columns[i];
      const int32_t token = inside ? g.start[i] + r * g.columns[i] + c : int32_t(p.tokens);
      g.offset[corner * g.stride + i] = token * int32_t(p.padded);
      g.tap[corner * g.stride + i] = (corner / 2 ? dy : 1 - dy) * (corner % 2 ? dx : 1 - dx) * g.weight[i];
    }
    g.fx[i] = dx;
    g.fy[i] = dy;
  }
}

// output[0 .. padded) = sum of tap * row. NV: vectors per row at compile time.
template <class T, int NV, class Counts>
static inline void gather_rows(const T* map, const Counts& counts, const Geometry<T>& g, int64_t k, T* output) {
  const int64_t n = counts.total(), stride = g.stride;
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

template <class T, class Counts>
static void gather_any(const T* map, const Counts& counts, const Geometry<T>& g, int64_t k, int64_t padded, T* output) {
  constexpr int kStep = 4 * kLanes<T>;
  int64_t c = 0;
  for (; c + kStep <= padded; c += kStep) gather_rows<T, 4>(map + c, counts, g, k, output + c);
  for (; c < padded; c += kLanes<T>) gather_rows<T, 1>(map + c, counts, g, k, output + c);
}

template <class T>
static void forward(const MsdaProblem<T>& p, int64_t image, int64_t head, int64_t begin, int64_t end, T* output) {
  const AnyCounts counts{p.levels, p.points};
  Geometry<T> g(p, false);
  Scratch<T> row(p.padded);
  const T* map = p.value + (image * p.heads + head) * (p.tokens + 1) * p.padded;
  for (int64_t query = begin; query < end; query += kGroup) {
    const int64_t count = smaller(kGroup, end - query);
    gather_inputs(p, counts, image, head, query, count, g);
    locate_taps(p, count, g);
    for (int64_t k = 0; k < count; ++k) {
      T* target = output + ((image * p.queries + query + k) * p.heads + head) * p.channels;
      if (p.padded == p.channels) {
        gather_any(map, counts, g, k, p.padded, target);
      } else {
        gather_any(map, counts, g, k, p.padded, row.data());
        std::memcpy(target, row.data(), size_t(p.channels) * sizeof(T));
      }
    }
  }
}

// Adds tap * grad to the map's gradient, and puts each tap's <grad, row> into g.dot. Channels come in chunks; the
// first one overwrites.
template <class T, int NV, bool First, class Counts>
static inline void scatter_rows(const T* map, T* grad_map, const T* grad, const Counts& counts, Geometry<T>& g,
                                int64_t k) {
  constexpr int kWidth = kLanes<T>;
  const int64_t n = counts.total();
  Vec<T> top[NV];
  for (int j = 0; j < NV; ++j) top[j] = load(grad + j * kWidth);
  for (int64_t done = 0; done < n; done += kWidth) {
    const int64_t i = k * n + done;
    const int64_t here = smaller(kWidth, n - done);
    for (int corner = 0; corner < 4; ++corner) {
      Vec<T> partial[kWidth];
      for (int64_t t = here; t < kWidth; ++t) partial[t] = splat(T(0));
      for (int64_t t = 0; t < here; ++t) {
        const int32_t offset = g.offset[corner * g.stride + i + t];
        const T* row = map + offset;
        T* grad_row = grad_map + offset;
        const Vec<T> w = splat(g.tap[corner * g.stride + i + t]);
        Vec<T> sum = top[0] * load(row);
        for (int j = 1; j < NV; ++j) sum += top[j] * load(row + j * kWidth);
        for (int j = 0; j < NV; ++j) store(grad_row + j * kWidth, load(grad_row + j * kWidth) + w * top[j]);
        partial[t] = sum;
      }
      // The last vector overhangs into the next query, which comes later and overwrites it.
      T* dot = g.dot.data() + corner * g.stride + i;
      const Vec<T> sums = sum_lanes(partial);
      store(dot, First ? sums : load(dot) + sums);
    }
  }
}

template <class T, class Counts>
static void scatter_any(const T* map, T* grad_map, const T* grad, const Counts& counts, Geometry<T>& g, int64_t k,
                        int64_t padded) {
  constexpr int kStep = 4 * kLanes<T>;
  int64_t c = 0;
  bool first = true;
  for (; c + kStep <= padded; c += kStep, first = false) {
    if (first)
      scatter_rows<T, 4, true>(map + c, grad_map + c, grad + c, counts, g, k);
    else
      scatter_rows<T, 4, false>(map + c, grad_map + c, grad + c, counts, g, k);
  }
  for (; c < padded; c += kLanes<T>, first = false) {
    if (first)
      scatter_rows<T, 1, true>(map + c, grad_map + c, grad + c, counts, g, k);
    else
      scatter_rows<T, 1, false>(map + c, grad_map + c, grad + c, counts, g, k);
  }
}

// Gradients of the group's points and weights, from the dots.
template <class T, class Counts>
static void finish_group(const MsdaProblem<T>& p, const Counts& counts, Geometry<T>& g, int64_t image, int64_t head,
                         int64_t query, int64_t count, const MsdaGradients<T>& grads) {
  const int64_t n = counts.total();
  const T *dot0 = g.dot.data(), *dot1 = dot0 + g.stride, *dot2 = dot1 + g.stride, *dot3 = dot2 + g.stride;
  const bool fused = p.reference != nullptr;
  T *grad_x = g.x.data(), *grad_y = g.y.data(), *grad_weight = g.tap.data();  // no longer needed as inputs
  const Vec<T> one = splat(T(1));
  for (int64_t i = 0; i < count * n; i += kLanes<T>) {
    const Vec<T> dx = load(g.fx.data() + i), dy = load(g.fy.data() + i), weight = load(g.weight.data() + i);
    const Vec<T> d0 = load(dot0 + i), d1 = load(dot1 + i), d2 = load(dot2 + i), d3 = load(dot3 + i);
    // pixel offsets have unit slope; normalised locations carry the size of their level
    const Vec<T> slope_x = fused ? weight : weight * load(g.width.data() + i);
    const Vec<T> slope_y = fused ? weight : weight * load(g.height.data() + i);
    store(grad_x + i, slope_x * ((one - dy) * (d1 - d0) + dy * (d3 - d2)));
    store(grad_y + i, slope_y * ((one - dx) * (d2 - d0) + dx * (d3 - d1)));
    store(grad_weight + i, (one - dy) * ((one - dx) * d0 + dx * d1) + dy * ((one - dx) * d2 + dx * d3));
  }
  for (int64_t k = 0; k < count; ++k) {
    const int64_t at = ((image * p.queries + query + k) * p.heads + head) * n;
    T *grad_xy = grads.points_xy + 2 * at, *own = grad_weight + k * n;
    for (int64_t i = 0; i < n; ++i) grad_xy[2 * i] = grad_x[k * n + i], grad_xy[2 * i + 1] = grad_y[k * n + i];
    if (fused) {  // through the softmax
      const T* weight = g.weight.data() + k * n;
      T mean = 0;
      for (int64_t i = 0; i < n; ++i) mean += weight[i] * own[i];
      for (int64_t i = 0; i < n; ++i) own[i] = weight[i] * (own[i] - mean);
    }
    std::memcpy(grads.weights + at, own, size_t(n) * sizeof(T));
  }
}

template <class T, class Counts>
static void backward_counted(const MsdaProblem<T>& p, const Counts& counts, int64_t image, int64_t head, int64_t begin,
                             int64_t end, const MsdaGradients<T>& grads) {
  Geometry<T> g(p, true);
  Scratch<T> grad(p.padded);
  const int64_t map_size = (p.tokens + 1) * p.padded;
  const T* map = p.value + (image * p.heads + head) * map_size;
  T* grad_map = grads.value + head * map_size;
  for (int64_t query = begin; query < end; query += kGroup) {
    const int64_t count = smaller(kGroup, end - query);
    gather_inputs(p, counts, image, head, query, count, g);
    locate_taps(p, count, g);
    for (int64_t k = 0; k < count; ++k) {
      const int64_t at = (image * p.queries + query + k) * p.heads + head;
      std::memcpy(grad.data(), grads.output + at * p.channels, size_t(p.channels) * sizeof(T));
      scatter_any(map, grad_map, grad.data(), counts, g, k, p.padded);
    }
    finish_group(p, counts, g, image, head, query, count, grads);
  }
}

template <class T>
static void backward(const MsdaProblem<T>& p, int64_t image, int64_t head, int64_t begin, int64_t end,
                     const MsdaGradients<T>& grads) {
  if (p.levels == ReleasedCounts::levels && p.points == ReleasedCounts::points)
    backward_counted(p, ReleasedCounts{}, image, head, begin, end, grads);
  else
    backward_counted(p, AnyCounts{p.levels, p.points}, image, head, begin, end, grads);
}

}  // namespace
