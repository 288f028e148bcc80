// The arithmetic of neighbourhood attention on a tile: kQueries neighbouring queries of a row and the pixels that their
// windows cover together, K rows of K + kQueries - 1 columns at most.
//
// Scores: lanes are columns of the keys, which a tile holds transposed, so no sum runs over lanes. Values: lanes are
// channels. Both keep their sums of kQueries queries in registers and load each key or value once for all of them.
//
// Weights outside a query's own window are 0. Zero times NaN or infinity is NaN, so where a tile holds either, queries
// go one by one through their own windows: nothing leaks from outside.
#pragma once
#include "na_cpu.h"
#include "scratch.h"
#include "vec.h"

namespace {

using segcore::NaProblem;
using segcore::NaTensor;

// 6 queries and K = 11, the released models' window, fill 16 columns; 6 x 2 sums fit AVX2's 16 registers.
constexpr int kQueries = 6;

// One axis of a dilation group: `size` pixels, windows of K.
struct Axis {
  int64_t size, kernel;
  int64_t start(int64_t i) const { return smaller(larger(i - kernel / 2, 0), size - kernel); }
  // row of the bias table that belongs to the window's first pixel
  int64_t bias(int64_t i) const { return start(i) - i + kernel - 1; }
};

static inline int64_t round_up(int64_t x, int64_t step) { return (x + step - 1) / step * step; }

// One task, and what all tasks of a problem share. The memory is used again from task to task.
template <class T>
struct Group {
  const NaProblem<T>& p;
  int64_t image = 0, head = 0, top = 0, left = 0;
  Axis rows{}, columns{};
  int64_t padded;      // channels, rounded up to whole vectors
  int64_t span;        // columns of a tile: whole vectors
  int64_t bias_width;  // columns of the bias table, with room on both sides
  Scratch<T> bias;     // (2K - 1, bias_width), the table starts at column kFront
  Scratch<T> inside;   // (kQueries, span): 1 inside the window of a query `shift` columns on, else 0
  static constexpr int64_t kFront = 8;

  explicit Group(const NaProblem<T>& problem) : p(problem) {
    padded = round_up(p.channels, kLanes<T>);
    span = round_up(p.kernel + kQueries - 1, kLanes<T>);
    bias_width = kFront + 2 * p.kernel - 1 + span;
    bias.resize((2 * p.kernel - 1) * bias_width);
    inside.resize(kQueries * span);
    for (int64_t shift = 0; shift < kQueries; ++shift)
      for (int64_t c = shift; c < shift + p.kernel; ++c) inside[shift * span + c] = T(1);
  }

  void enter(int64_t task) {
    const int64_t groups = p.dilation * p.dilation, map = task / groups, side = 2 * p.kernel - 1;
    image = map / p.heads, head = map % p.heads;
    top = task % groups / p.dilation, left = task % p.dilation;
    rows = {(p.height - top + p.dilation - 1) / p.dilation, p.kernel};
    columns = {(p.width - left + p.dilation - 1) / p.dilation, p.kernel};
    if (p.rpb == nullptr) return;
    for (int64_t i = 0; i < side; ++i)
      std::memcpy(bias.data() + i * bias_width + kFront, p.rpb + (head * side + i) * side, size_t(side) * sizeof(T));
  }

  template <class U>
  U* pixel(const NaTensor<U>& tensor, int64_t i, int64_t j) const {
    return tensor.data + image * tensor.image + head * tensor.head + (top + i * p.dilation) * tensor.row +
           (left + j * p.dilation) * tensor.column;
  }
};

// A vector of the channels from c on; past the last it is 0.
template <class T>
static inline Vec<T> load_channels(const T* pixel, int64_t c, int64_t channels) {
  if (c + kLanes<T> <= channels) return load(pixel + c);
  Vec<T> v = splat(T(0));
  std::memcpy(&v, pixel + c, size_t(channels - c) * sizeof(T));
  return v;
}

template <class T>
static inline void store_channels(T* pixel, const T* from, int64_t channels) {
  std::memcpy(pixel, from, size_t(channels) * sizeof(T));
}

// Lane j of v[i] becomes lane i of v[j].
template <class T>
static inline void transpose(Vec<T>* v) {
  constexpr int kCount = kLanes<T>;
#ifdef SEGCORE_SHUFFLE
  // Riffling the halves of all rows moves one bit of the row number into the lane number; so do it for each bit.
  for (int bit = 1; bit < kCount; bit *= 2) {
    Vec<T> mixed[kCount];
    for (int i = 0; i < kCount / 2; ++i) riffle(v[i], v[i + kCount / 2], mixed[2 * i], mixed[2 * i + 1]);
    for (int i = 0; i < kCount; ++i) v[i] = mixed[i];
  }
#else
  for (int i = 0; i < kCount; ++i)
    for (int j = 0; j < i; ++j) {
      const T x = v[i][j];
      v[i][j] = v[j][i];
      v[j][i] = x;
    }
#endif
}

// Rows [first, last) of the tile's columns with the channels apart, (rows, channels, span); past the map's edge 0.
template <class T>
static void pack_transposed(const Group<T>& g, const NaTensor<const T>& source, int64_t column, int64_t first,
                            int64_t last, T* target) {
  const int64_t channels = g.p.channels;
  for (int64_t i = first; i < last; ++i, target += channels * g.span) {
    for (int64_t j = 0; j < g.span; j += kLanes<T>) {
      const int64_t count = smaller(kLanes<T>, g.columns.size - column - j);
      for (int64_t c = 0; c < channels; c += kLanes<T>) {
        Vec<T> v[kLanes<T>];
        for (int k = 0; k < kLanes<T>; ++k)
          v[k] = k < count ? load_channels(g.pixel(source, i, column + j + k), c, channels) : splat(T(0));
        transpose<T>(v);
        const int64_t most = smaller(kLanes<T>, channels - c);
        for (int64_t k = 0; k < most; ++k) store(target + (c + k) * g.span + j, v[k]);
      }
    }
  }
}

// The same with the channels together, (rows, span, padded). Returns whether all of it is finite.
template <class T>
static bool pack_rows(const Group<T>& g, const NaTensor<const T>& source, int64_t column, int64_t first, int64_t last,
                      T* target) {
  const Vec<T> zero = splat(T(0));
  Vec<T> trace = zero;  // x - x is NaN where x is not finite
  const int64_t count = smaller(g.span, g.columns.size - column);
  for (int64_t i = first; i < last; ++i) {
    for (int64_t j = 0; j < g.span; ++j, target += g.padded) {
      const T* from = g.pixel(source, i, column + smaller(j, count - 1));
      for (int64_t c = 0; c < g.padded; c += kLanes<T>) {
        const Vec<T> x = load_channels(from, c, g.p.channels);
        trace += x - x;
        store(target + c, x);
      }
    }
  }
  T sum = 0;
  for (int i = 0; i < kLanes<T>; ++i) sum += trace[i];
  return sum == T(0);
}

// The tile's queries (or gradients) times scale, (kQueries, padded); where `count` is less, the last is repeated.
// Returns whether all of it is finite.
template <class T>
static bool pack_queries(const Group<T>& g, const NaTensor<const T>& source, int64_t i, int64_t j, int64_t count,
                         T scale, T* target) {
  const Vec<T> factor = splat(scale);
  Vec<T> trace = splat(T(0));
  for (int64_t k = 0; k < kQueries; ++k, target += g.padded) {
    const T* from = g.pixel(source, i, j + smaller(k, count - 1));
    for (int64_t c = 0; c < g.padded; c += kLanes<T>) {
      const Vec<T> x = load_channels(from, c, g.p.channels) * factor;
      trace += x - x;
      store(target + c, x);
    }
  }
  T sum = 0;
  for (int i = 0; i < kLanes<T>; ++i) sum += trace[i];
  return sum == T(0);
}

// Products of the queries with N vectors of columns, each the corner of a plane (channels, span).
template <class T, int N>
static inline void dot_vectors(const Group<T>& g, const T* q, const T* const* planes, T* const* out) {
  Vec<T> sum[kQueries][N];
  for (int k = 0; k < kQueries; ++k)
    for (int v = 0; v < N; ++v) sum[k][v] = splat(T(0));
  const T *x[kQueries], *plane[N];
  for (int k = 0; k < kQueries; ++k) x[k] = q + k * g.padded;
  for (int v = 0; v < N; ++v) plane[v] = planes[v];
  const int64_t span = g.span, channels = g.p.channels;
  for (int64_t c = 0; c < channels; ++c) {
    Vec<T> column[N];
    for (int v = 0; v < N; ++v) column[v] = load(plane[v] + c * span);
    for (int k = 0; k < kQueries; ++k) {
      const Vec<T> factor = splat(x[k][c]);
      for (int v = 0; v < N; ++v) sum[k][v] += factor * column[v];
    }
  }
  T* target[N];  // copies: stores could change what `out` and `g` point at
  for (int v = 0; v < N; ++v) target[v] = out[v];
  const int64_t step = g.p.kernel * g.span;
  for (int k = 0; k < kQueries; ++k)
    for (int v = 0; v < N; ++v) store(target[v] + k * step, sum[k][v]);
}

// Scores (kQueries, K, span) of the queries against K rows of transposed keys.
template <class T>
static void dot_window(const Group<T>& g, const T* q, const T* keys, T* scores) {
  const int64_t per_row = g.span / kLanes<T>, total = g.p.kernel * per_row;
  const T* planes[2];
  T* out[2];
  for (int64_t i = 0; i < total; i += 2) {
    for (int64_t v = 0; v < smaller(2, total - i); ++v) {
      const int64_t row = (i + v) / per_row, column = (i + v) % per_row * kLanes<T>;
      planes[v] = keys + row * g.p.channels * g.span + column;
      out[v] = scores + row * g.span + column;
    }
    if (i + 2 <= total)
      dot_vectors<T, 2>(g, q, planes, out);
    else
      dot_vectors<T, 1>(g, q, planes, out);
  }
}

// Adds the bias and exponentiates, in place; outside the window 0. Returns 1 / sum.
// scores: (K, span) of one query whose window starts `shift` columns into the tile.
template <class T>
static T softmax_window(const Group<T>& g, T* scores, int64_t shift, int64_t bias_row, int64_t bias_column) {
  const Vec<T> lowest = splat(T(-INFINITY)), zero = splat(T(0));
  const T* inside = g.inside.data() + shift * g.span;
  const T* bias = g.bias.data() + bias_row * g.bias_width + Group<T>::kFront + bias_column - shift;
  Vec<T> peaks = lowest;
  for (int64_t c = 0; c < g.span; c += kLanes<T>) {
    const Vec<T> mask = load(inside + c);
    for (int64_t r = 0; r < g.p.kernel; ++r) {
      T* at = scores + r * g.span + c;
      const Vec<T> logits = where_positive(mask, load(at) + load(bias + r * g.bias_width + c), lowest);
      store(at, logits);
      peaks = maximum(peaks, logits);
    }
  }
  T peak = peaks[0];
  for (int i = 1; i < kLanes<T>; ++i) peak = peaks[i] > peak ? peaks[i] : peak;
  const Vec<T> top = splat(peak);
  Vec<T> sums = zero;
  for (int64_t c = 0; c < g.span; c += kLanes<T>) {
    const Vec<T> mask = load(inside + c);
    for (int64_t r = 0; r < g.p.kernel; ++r) {
      T* at = scores + r * g.span + c;
      const Vec<T> power = where_positive(mask, exponential(load(at) - top), zero);
      store(at, power);
      sums += power;
    }
  }
  T sum = 0;
  for (int i = 0; i < kLanes<T>; ++i) sum += sums[i];
  return T(1) / sum;
}

// out[k] = sum of weight[k] * row over K rows and `count` columns of the tile, for Q queries and N vectors of channels.
template <class T, int Q, int N>
static inline void weigh_chunk(const Group<T>& g, const T* weights, const T* rows, int64_t count, T* out) {
  Vec<T> sum[Q][N];
  const T* weight[Q];
  for (int k = 0; k < Q; ++k) {
    weight[k] = weights + k * g.p.kernel * g.span;
    for (int v = 0; v < N; ++v) sum[k][v] = splat(T(0));
  }
  for (int64_t r = 0; r < g.p.kernel; ++r) {
    const T* row = rows + r * g.span * g.padded;
    for (int64_t c = r * g.span; c < r * g.span + count; ++c, row += g.padded) {
      Vec<T> x[N];
      for (int v = 0; v < N; ++v) x[v] = load(row + v * kLanes<T>);
      for (int k = 0; k < Q; ++k) {
        const Vec<T> factor = splat(weight[k][c]);
        for (int v = 0; v < N; ++v) sum[k][v] += factor * x[v];
      }
    }
  }
  for (int k = 0; k < Q; ++k)
    for (int v = 0; v < N; ++v) store(out + k * g.padded + v * kLanes<T>, sum[k][v]);
}

// rows += sum over the queries of weight[k] * x[k]: the transpose of `weigh_chunk`. x: (Q, padded).
template <class T, int Q, int N>
static inline void add_chunk(const Group<T>& g, const T* weights, const T* x, int64_t count, T* rows) {
  Vec<T> factor[Q][N];
  const T* weight[Q];
  for (int k = 0; k < Q; ++k) {
    weight[k] = weights + k * g.p.kernel * g.span;
    for (int v = 0; v < N; ++v) factor[k][v] = load(x + k * g.padded + v * kLanes<T>);
  }
  for (int64_t r = 0; r < g.p.kernel; ++r) {
    T* row = rows + r * g.span * g.padded;
    for (int64_t c = r * g.span; c < r * g.span + count; ++c, row += g.padded) {
      Vec<T> sum[N];
      for (int v = 0; v < N; ++v) sum[v] = load(row + v * kLanes<T>);
      for (int k = 0; k < Q; ++k)
        for (int v = 0; v < N; ++v) sum[v] += splat(weight[k][c]) * factor[k][v];
      for (int v = 0; v < N; ++v) store(row + v * kLanes<T>, sum[v]);
    }
  }
}

// Which columns of a tile its queries see: query k from shift[k] on, all together `columns`.
struct Windows {
  int64_t count, columns;  // queries; columns
  int64_t shift[kQueries];
};

// out (kQueries, padded) = sum of weights (kQueries, K, span) * rows (K, span, padded).
template <class T>
static void weigh_rows(const Group<T>& g, const T* weights, const T* rows, const Windows& w, bool finite, T* out) {
  constexpr int64_t kWide = 2 * kLanes<T>;
  if (finite) {
    int64_t c = 0;
    for (; c + kWide <= g.padded; c += kWide) weigh_chunk<T, kQueries, 2>(g, weights, rows + c, w.columns, out + c);
    if (c < g.padded) weigh_chunk<T, kQueries, 1>(g, weights, rows + c, w.columns, out + c);
    return;
  }
  for (int64_t k = 0; k < w.count; ++k) {
    const T *own = weights + k * g.p.kernel * g.span + w.shift[k], *corner = rows + w.shift[k] * g.padded;
    for (int64_t c = 0; c < g.padded; c += kLanes<T>)
      weigh_chunk<T, 1, 1>(g, own, corner + c, g.p.kernel, out + k * g.padded + c);
  }
}

// rows (K, span, padded) += sum over the queries of weights (kQueries, K, span) * x (kQueries, padded).
template <class T>
static void add_rows(const Group<T>& g, const T* weights, const T* x, const Windows& w, bool finite, T* rows) {
  constexpr int64_t kWide = 2 * kLanes<T>;
  if (finite) {
    int64_t c = 0;
    for (; c + kWide <= g.padded; c += kWide) add_chunk<T, kQueries, 2>(g, weights, x + c, w.columns, rows + c);
    if (c < g.padded) add_chunk<T, kQueries, 1>(g, weights, x + c, w.columns, rows + c);
    return;
  }
  for (int64_t k = 0; k < w.count; ++k) {
    const T *own = weights + k * g.p.kernel * g.span + w.shift[k], *from = x + k * g.padded;
    for (int64_t c = 0; c < g.padded; c += kLanes<T>)
      add_chunk<T, 1, 1>(g, own, from + c, g.p.kernel, rows + w.shift[k] * g.padded + c);
  }
}

}  // namespace
