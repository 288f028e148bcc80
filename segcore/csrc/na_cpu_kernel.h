// Neighbourhood attention on one dilation group of one head (NATTEN, arXiv:2204.07143; DiNAT, arXiv:2209.15001).
//
// Included once per instruction set, after the target pragma; everything is in an unnamed namespace.
//
// Four neighbouring queries of a row share the columns that their windows cover together (K + 3 at most), so one
// load of a key column serves four queries. Keys are kept transposed (channel by channel, columns contiguous):
// lanes are columns, and no sum over lanes is needed. Columns outside a query's own window are masked before the
// softmax, and values are read inside the window only: nothing leaks from outside.
#pragma once
#include "na_cpu.h"
#include "scratch.h"
#include "vec.h"

namespace {

using segcore::NaGradients;
using segcore::NaProblem;

constexpr int64_t kQueries = 4;  // queries that share their keys

// One axis of a dilation group: `size` pixels, windows of K.
struct Axis {
  int64_t size, kernel;
  int64_t start(int64_t i) const { return smaller(larger(i - kernel / 2, 0), size - kernel); }
  // row of the bias table that belongs to the window's first pixel
  int64_t bias(int64_t i) const { return start(i) - i + kernel - 1; }
};

template <class T>
struct Group {
  const NaProblem<T>& p;
  int64_t map, top, left;
  Axis rows, columns;
  int64_t padded;          // channels, rounded up to whole vectors
  int64_t width;           // columns of a transposed row, with room to read whole vectors past the end
  int64_t span;            // columns of a block of scores: whole vectors
  int64_t bias_width;      // columns of the bias table, with room on both sides
  Scratch<T> bias;         // (2K - 1, bias_width), the table starts at column kFront
  Scratch<T> inside;       // (kQueries, span): 1 inside the window of a query `shift` columns on, else 0
  static constexpr int64_t kFront = 8;

  Group(const NaProblem<T>& problem, int64_t map_in, int64_t top_in, int64_t left_in)
      : p(problem), map(map_in), top(top_in), left(left_in) {
    rows = {(p.height - top + p.dilation - 1) / p.dilation, p.kernel};
    columns = {(p.width - left + p.dilation - 1) / p.dilation, p.kernel};
    padded = (p.channels + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
    span = (p.kernel + kQueries - 1 + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
    width = (columns.size + span + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
    const int64_t side = 2 * p.kernel - 1;
    bias_width = kFront + side + span;
    bias.resize(side * bias_width);
    if (p.rpb != nullptr)
      for (int64_t i = 0; i < side; ++i)
        for (int64_t j = 0; j < side; ++j)
          bias[i * bias_width + kFront + j] = p.rpb[((map % p.heads) * side + i) * side + j];
    inside.resize(kQueries * span);
    for (int64_t shift = 0; shift < kQueries; ++shift)
      for (int64_t c = shift; c < shift + p.kernel; ++c) inside[shift * span + c] = T(1);
  }

  int64_t pixel(int64_t i, int64_t j) const {
    return (map * p.height + top + i * p.dilation) * p.width + left + j * p.dilation;
  }
};

// Rows [first, last) of the group, channels in vectors: (rows, columns, padded).
template <class T>
static void copy_rows(const Group<T>& g, const T* source, int64_t first, int64_t last, T* target) {
  for (int64_t i = first; i < last; ++i)
    for (int64_t j = 0; j < g.columns.size; ++j)
      std::memcpy(target + ((i - first) * g.columns.size + j) * g.padded, source + g.pixel(i, j) * g.p.channels,
                  size_t(g.p.channels) * sizeof(T));
}

// The same, transposed: (rows, channels, width).
template <class T>
static void copy_transposed(const Group<T>& g, const T* source, int64_t first, int64_t last, T* target) {
  const int64_t channels = g.p.channels;
  for (int64_t i = first; i < last; ++i) {
    T* plane = target + (i - first) * channels * g.width;
    for (int64_t j = 0; j < g.columns.size; ++j) {
      const T* from = source + g.pixel(i, j) * channels;
      for (int64_t c = 0; c < channels; ++c) plane[c * g.width + j] = from[c];
    }
  }
}

// out[k][c] = <q[k], key column c> for four queries and NV vectors of columns of one transposed row.
template <class T, int NV>
static inline void dot_columns(const T* q, const T* keys, int64_t channels, int64_t width, T* out, int64_t step) {
  Vec<T> sum[kQueries][NV];
  for (int k = 0; k < kQueries; ++k)
    for (int v = 0; v < NV; ++v) sum[k][v] = splat(T(0));
  for (int64_t c = 0; c < channels; ++c) {
    Vec<T> column[NV];
    for (int v = 0; v < NV; ++v) column[v] = load(keys + c * width + v * kLanes<T>);
    for (int k = 0; k < kQueries; ++k) {
      const Vec<T> x = splat(q[c * kQueries + k]);
      for (int v = 0; v < NV; ++v) sum[k][v] += x * column[v];
    }
  }
  for (int k = 0; k < kQueries; ++k)
    for (int v = 0; v < NV; ++v) store(out + k * step + v * kLanes<T>, sum[k][v]);
}

// Scores (kQueries, K, span) of a block against the window rows; `keys` points at the first row and column.
template <class T>
static void dot_window(const Group<T>& g, const T* q, const T* keys, T* scores) {
  const int64_t channels = g.p.channels, kernel = g.p.kernel, step = kernel * g.span;
  for (int64_t r = 0; r < kernel; ++r) {
    const T* row = keys + r * channels * g.width;
    T* out = scores + r * g.span;
    int64_t c = 0;
    for (; c + 2 * kLanes<T> <= g.span; c += 2 * kLanes<T>)
      dot_columns<T, 2>(q, row + c, channels, g.width, out + c, step);
    for (; c < g.span; c += kLanes<T>) dot_columns<T, 1>(q, row + c, channels, g.width, out + c, step);
  }
}

// Adds the bias, masks what is outside the window and exponentiates, in place. Returns 1 / sum.
// scores: (K, span) of one query whose window starts `shift` columns into the block.
template <class T>
static T softmax_window(const Group<T>& g, T* scores, int64_t shift, int64_t bias_row, int64_t bias_column) {
  const Vec<T> lowest = splat(T(-INFINITY)), zero = splat(T(0));
  const T* inside = g.inside.data() + shift * g.span;
  Vec<T> peaks = lowest;
  for (int64_t r = 0; r < g.p.kernel; ++r) {
    const T* bias = g.bias.data() + (bias_row + r) * g.bias_width + Group<T>::kFront + bias_column - shift;
    for (int64_t c = 0; c < g.span; c += kLanes<T>) {
      T* at = scores + r * g.span + c;
      const Vec<T> logits = where_positive(load(inside + c), load(at) + load(bias + c), lowest);
      store(at, logits);
      peaks = maximum(peaks, logits);
    }
  }
  T peak = peaks[0];
  for (int i = 1; i < kLanes<T>; ++i) peak = peaks[i] > peak ? peaks[i] : peak;
  const Vec<T> top = splat(peak);
  const int64_t count = g.p.kernel * g.span;
  for (int64_t i = 0; i < count; i += kLanes<T>) store(scores + i, load(scores + i) - top);
  exponentials(scores, count);
  Vec<T> sums = zero;
  for (int64_t i = 0; i < count; i += kLanes<T>) sums += load(scores + i);
  T sum = 0;
  for (int i = 0; i < kLanes<T>; ++i) sum += sums[i];
  return T(1) / sum;
}

// out[0 .. NV vectors) = factor * sum of weight * row over the window. rows: (.., columns, padded) at its corner.
template <class T, int NV>
static inline void weigh_chunk(const Group<T>& g, const T* weights, const T* rows, T factor, T* out) {
  Vec<T> even[NV], odd[NV];
  for (int v = 0; v < NV; ++v) even[v] = odd[v] = splat(T(0));
  for (int64_t r = 0; r < g.p.kernel; ++r) {
    const T* row = rows + r * g.columns.size * g.padded;
    const T* weight = weights + r * g.span;
    int64_t c = 0;
    for (; c + 2 <= g.p.kernel; c += 2) {
      const Vec<T> a = splat(weight[c]), b = splat(weight[c + 1]);
      for (int v = 0; v < NV; ++v) {
        even[v] += a * load(row + c * g.padded + v * kLanes<T>);
        odd[v] += b * load(row + (c + 1) * g.padded + v * kLanes<T>);
      }
    }
    const Vec<T> a = splat(weight[c]);  // K is odd: one is left
    for (int v = 0; v < NV; ++v) even[v] += a * load(row + c * g.padded + v * kLanes<T>);
  }
  for (int v = 0; v < NV; ++v) store(out + v * kLanes<T>, (even[v] + odd[v]) * splat(factor));
}

template <class T>
static void weigh_window(const Group<T>& g, const T* weights, const T* rows, T factor, T* out) {
  int64_t c = 0;
  for (; c + 4 * kLanes<T> <= g.padded; c += 4 * kLanes<T>) weigh_chunk<T, 4>(g, weights, rows + c, factor, out + c);
  for (; c < g.padded; c += kLanes<T>) weigh_chunk<T, 1>(g, weights, rows + c, factor, out + c);
}

// The block's queries (or gradients), scaled and interleaved: (channels, kQueries).
template <class T>
static void load_block(const Group<T>& g, const T* source, int64_t i, int64_t j, int64_t count, T scale, T* out) {
  for (int64_t k = 0; k < kQueries; ++k) {
    const T* from = source + g.pixel(i, j + smaller(k, count - 1)) * g.p.channels;
    for (int64_t c = 0; c < g.p.channels; ++c) out[c * kQueries + k] = from[c] * scale;
  }
}

// Rows [begin, end) of the group.
template <class T>
static void forward(const NaProblem<T>& p, int64_t map, int64_t top, int64_t left, int64_t begin, int64_t end,
                    T* output) {
  const Group<T> g(p, map, top, left);
  if (end > g.rows.size) end = g.rows.size;
  if (begin >= end) return;
  const int64_t first = g.rows.start(begin), last = g.rows.start(end - 1) + p.kernel;
  Scratch<T> keys((last - first) * p.channels * g.width), values((last - first) * g.columns.size * g.padded);
  copy_transposed(g, p.key, first, last, keys.data());
  copy_rows(g, p.value, first, last, values.data());
  Scratch<T> q(p.channels * kQueries), scores(kQueries * p.kernel * g.span), result(g.padded);
  for (int64_t i = begin; i < end; ++i) {
    const int64_t row = g.rows.start(i) - first, bias_row = g.rows.bias(i);
    for (int64_t j = 0; j < g.columns.size; j += kQueries) {
      const int64_t count = smaller(kQueries, g.columns.size - j), column = g.columns.start(j);
      load_block(g, p.query, i, j, count, p.scale, q.data());
      dot_window(g, q.data(), keys.data() + row * p.channels * g.width + column, scores.data());
      for (int64_t k = 0; k < count; ++k) {
        const int64_t shift = g.columns.start(j + k) - column;
        T* own = scores.data() + k * p.kernel * g.span;
        const T factor = softmax_window(g, own, shift, bias_row, g.columns.bias(j + k));
        const T* corner = values.data() + (row * g.columns.size + column + shift) * g.padded;
        weigh_window(g, own + shift, corner, factor, result.data());
        std::memcpy(output + g.pixel(i, j + k) * p.channels, result.data(), size_t(p.channels) * sizeof(T));
      }
    }
  }
}

// rows[c] += weights[c] * x over the window.
template <class T>
static void add_outer(const Group<T>& g, const T* weights, const T* x, T* rows) {
  for (int64_t r = 0; r < g.p.kernel; ++r) {
    for (int64_t c = 0; c < g.p.kernel; ++c) {
      const Vec<T> weight = splat(weights[r * g.span + c]);
      T* row = rows + (r * g.columns.size + c) * g.padded;
      for (int64_t d = 0; d < g.padded; d += kLanes<T>) store(row + d, load(row + d) + weight * load(x + d));
    }
  }
}

// From probabilities (unnormalised, with factor 1 / sum) and their gradients to the gradients of the logits; the
// probabilities are normalised on the way. Both (K, span); outside the window they are 0.
template <class T>
static void softmax_backward(const Group<T>& g, T* probs, T factor, T* grads, int64_t shift) {
  const int64_t count = g.p.kernel * g.span;
  const T* inside = g.inside.data() + shift * g.span;
  const Vec<T> scale = splat(factor), zero = splat(T(0));
  Vec<T> sums = zero;
  for (int64_t r = 0; r < g.p.kernel; ++r) {
    for (int64_t c = 0; c < g.span; c += kLanes<T>) {
      const int64_t i = r * g.span + c;
      const Vec<T> prob = load(probs + i) * scale, grad = where_positive(load(inside + c), load(grads + i), zero);
      store(probs + i, prob);
      store(grads + i, grad);
      sums += prob * grad;
    }
  }
  T sum = 0;
  for (int i = 0; i < kLanes<T>; ++i) sum += sums[i];
  const Vec<T> mean = splat(sum);
  for (int64_t i = 0; i < count; i += kLanes<T>) store(grads + i, load(probs + i) * (load(grads + i) - mean));
}

template <class T>
static void scatter_rows(const Group<T>& g, const T* rows, T* target) {
  for (int64_t i = 0; i < g.rows.size; ++i)
    for (int64_t j = 0; j < g.columns.size; ++j)
      std::memcpy(target + g.pixel(i, j) * g.p.channels, rows + (i * g.columns.size + j) * g.padded,
                  size_t(g.p.channels) * sizeof(T));
}

template <class T>
static void backward(const NaProblem<T>& p, int64_t map, int64_t top, int64_t left, const NaGradients<T>& grads) {
  const Group<T> g(p, map, top, left);
  const int64_t area = g.rows.size * g.columns.size, side = 2 * p.kernel - 1, block = p.kernel * g.span;
  Scratch<T> keys(g.rows.size * p.channels * g.width), values(g.rows.size * p.channels * g.width);
  Scratch<T> key_rows(area * g.padded), grad_keys(area * g.padded), grad_values(area * g.padded);
  copy_transposed(g, p.key, 0, g.rows.size, keys.data());
  copy_transposed(g, p.value, 0, g.rows.size, values.data());
  copy_rows(g, p.key, 0, g.rows.size, key_rows.data());
  Scratch<T> q(p.channels * kQueries), go(p.channels * kQueries), x(g.padded), result(g.padded);
  Scratch<T> probs(kQueries * block), dots(kQueries * block);
  for (int64_t i = 0; i < g.rows.size; ++i) {
    const int64_t row = g.rows.start(i), bias_row = g.rows.bias(i);
    for (int64_t j = 0; j < g.columns.size; j += kQueries) {
      const int64_t count = smaller(kQueries, g.columns.size - j), column = g.columns.start(j);
      const int64_t plane = row * p.channels * g.width + column;
      load_block(g, p.query, i, j, count, p.scale, q.data());
      load_block(g, grads.output, i, j, count, T(1), go.data());
      dot_window(g, q.data(), keys.data() + plane, probs.data());
      dot_window(g, go.data(), values.data() + plane, dots.data());
      for (int64_t k = 0; k < count; ++k) {
        const int64_t shift = g.columns.start(j + k) - column, bias_column = g.columns.bias(j + k);
        const int64_t corner = (row * g.columns.size + column + shift) * g.padded;
        T *prob = probs.data() + k * block, *dot = dots.data() + k * block;
        const T factor = softmax_window(g, prob, shift, bias_row, bias_column);
        softmax_backward(g, prob, factor, dot, shift);
        if (grads.rpb != nullptr)
          for (int64_t r = 0; r < p.kernel; ++r)
            for (int64_t c = 0; c < p.kernel; ++c)
              grads.rpb[(bias_row + r) * side + bias_column + c] += dot[r * g.span + shift + c];
        weigh_window(g, dot + shift, key_rows.data() + corner, p.scale, result.data());
        std::memcpy(grads.query + g.pixel(i, j + k) * p.channels, result.data(), size_t(p.channels) * sizeof(T));
        for (int64_t c = 0; c < p.channels; ++c) x[c] = q[c * kQueries + k];  // already scaled
        add_outer(g, dot + shift, x.data(), grad_keys.data() + corner);
        for (int64_t c = 0; c < p.channels; ++c) x[c] = go[c * kQueries + k];
        add_outer(g, prob + shift, x.data(), grad_values.data() + corner);
      }
    }
  }
  scatter_rows(g, grad_keys.data(), grads.key);
  scatter_rows(g, grad_values.data(), grads.value);
}

}  // namespace
