// Neighbourhood attention (NATTEN, arXiv:2204.07143; DiNAT, arXiv:2209.15001), forward and backward.
//
// Included once per instruction set, after the target pragma; everything is in an unnamed namespace.
//
// A dilation group is a dense map of its own. It is walked in strips of kQueries columns: a strip's keys and values are
// packed once, then its rows of queries go down, and K - 1 of each one's K rows of keys are still in the first cache.
#pragma once
#include "na_cpu.h"
#include "na_cpu_tile.h"
#include "scratch.h"
#include "vec.h"

namespace {

using segcore::NaGradients;

// The strip of the queries from column j on: its first column of keys, and the windows relative to it.
template <class T>
static Windows strip_windows(const Group<T>& g, int64_t j, int64_t& column) {
  Windows w;
  w.count = smaller(kQueries, g.columns.size - j);
  column = g.columns.start(j);
  for (int64_t k = 0; k < kQueries; ++k) w.shift[k] = g.columns.start(j + smaller(k, w.count - 1)) - column;
  w.columns = w.shift[w.count - 1] + g.p.kernel;
  return w;
}

// Tasks x bands from `begin` to `end`.
template <class T>
static void forward(const NaProblem<T>& p, int64_t bands, int64_t begin, int64_t end, const NaTensor<T>& output) {
  Group<T> g(p);
  const int64_t step = ((p.height + p.dilation - 1) / p.dilation + bands - 1) / bands;  // rows of a band
  const int64_t rows = step + p.kernel, block = p.kernel * g.span;
  Scratch<T> keys(rows * p.channels * g.span), values(rows * g.span * g.padded);
  Scratch<T> q(kQueries * g.padded), scores(kQueries * block), result(kQueries * g.padded);
  for (int64_t unit = begin; unit < end; ++unit) {
    g.enter(unit / bands);
    const int64_t top = unit % bands * step, bottom = smaller(top + step, g.rows.size);
    if (top >= bottom) continue;
    const int64_t first = g.rows.start(top), last = g.rows.start(bottom - 1) + p.kernel;
    for (int64_t j = 0; j < g.columns.size; j += kQueries) {
      int64_t column;
      const Windows w = strip_windows(g, j, column);
      pack_transposed(g, p.key, column, first, last, keys.data());
      const bool finite = pack_rows(g, p.value, column, first, last, values.data());
      for (int64_t i = top; i < bottom; ++i) {
        const int64_t row = g.rows.start(i) - first, bias_row = g.rows.bias(i);
        pack_queries(g, p.query, i, j, w.count, p.scale, q.data());
        dot_window(g, q.data(), keys.data() + row * p.channels * g.span, scores.data());
        T factor[kQueries];
        for (int64_t k = 0; k < w.count; ++k)
          factor[k] = softmax_window(g, scores.data() + k * block, w.shift[k], bias_row, g.columns.bias(j + k));
        weigh_rows(g, scores.data(), values.data() + row * g.span * g.padded, w, finite, result.data());
        for (int64_t k = 0; k < w.count; ++k) {
          T* own = result.data() + k * g.padded;
          for (int64_t c = 0; c < g.padded; c += kLanes<T>) store(own + c, load(own + c) * splat(factor[k]));
          store_channels(g.pixel(output, i, j + k), own, p.channels);
        }
      }
    }
  }
}

// From probabilities (unnormalised, with factor 1 / sum) and their gradients to the gradients of the logits; the
// probabilities are normalised on the way. Both (K, span); outside the window they become 0.
template <class T>
static void softmax_backward(const Group<T>& g, T* probs, T factor, T* grads, int64_t shift) {
  const T* inside = g.inside.data() + shift * g.span;
  const Vec<T> scale = splat(factor), zero = splat(T(0));
  Vec<T> sums = zero;
  for (int64_t c = 0; c < g.span; c += kLanes<T>) {
    const Vec<T> mask = load(inside + c);
    for (int64_t i = c; i < g.p.kernel * g.span; i += g.span) {
      const Vec<T> prob = where_positive(mask, load(probs + i) * scale, zero);
      store(probs + i, prob);
      sums += where_positive(mask, prob * load(grads + i), zero);
    }
  }
  T sum = 0;
  for (int i = 0; i < kLanes<T>; ++i) sum += sums[i];
  const Vec<T> mean = splat(sum);
  for (int64_t c = 0; c < g.span; c += kLanes<T>) {
    const Vec<T> mask = load(inside + c);
    for (int64_t i = c; i < g.p.kernel * g.span; i += g.span)
      store(grads + i, where_positive(mask, load(probs + i) * (load(grads + i) - mean), zero));
  }
}

// Adds the gradients (K, span) of a query's logits to the bias table's; both are 0 outside of the window.
template <class T>
static void add_bias(const Group<T>& g, const T* grads, int64_t shift, int64_t bias_row, int64_t bias_column, T* table) {
  T* corner = table + bias_row * g.bias_width + Group<T>::kFront + bias_column - shift;
  for (int64_t r = 0; r < g.p.kernel; ++r)
    for (int64_t c = 0; c < g.span; c += kLanes<T>) {
      T* at = corner + r * g.bias_width + c;
      store(at, load(at) + load(grads + r * g.span + c));
    }
}

// Adds a strip's gradients (rows, span, padded) to the whole map's: strips overlap.
template <class T>
static void add_strip(const Group<T>& g, const T* rows, int64_t column, int64_t columns, const NaTensor<T>& target) {
  for (int64_t i = 0; i < g.rows.size; ++i)
    for (int64_t j = 0; j < columns; ++j) {
      const T* from = rows + (i * g.span + j) * g.padded;
      T* to = g.pixel(target, i, column + j);
      for (int64_t c = 0; c < g.p.channels; ++c) to[c] += from[c];
    }
}

// The memory of a strip in the backward pass.
template <class T>
struct Strip {
  Scratch<T> keys, values, key_rows, grad_keys, grad_values;  // of all rows of the group
  Scratch<T> q, go, probs, dots, result;                      // of one row of queries

  explicit Strip(const Group<T>& g) {
    const int64_t rows = (g.p.height + g.p.dilation - 1) / g.p.dilation, block = g.p.kernel * g.span;
    for (Scratch<T>* planes : {&keys, &values}) planes->resize(rows * g.p.channels * g.span);
    for (Scratch<T>* pixels : {&key_rows, &grad_keys, &grad_values}) pixels->resize(rows * g.span * g.padded);
    for (Scratch<T>* queries : {&q, &go, &result}) queries->resize(kQueries * g.padded);
    for (Scratch<T>* weights : {&probs, &dots}) weights->resize(kQueries * block);
  }
};

// One row of queries of a strip, `row` the first of its rows of keys.
template <class T>
static void backward_row(const Group<T>& g, const NaGradients<T>& grads, int64_t i, int64_t j, const Windows& w,
                         bool finite, Strip<T>& s, T* table) {
  const NaProblem<T>& p = g.p;
  const int64_t row = g.rows.start(i), bias_row = g.rows.bias(i), block = p.kernel * g.span;
  const int64_t plane = row * p.channels * g.span, corner = row * g.span * g.padded;
  const bool finite_q = pack_queries(g, p.query, i, j, w.count, p.scale, s.q.data());
  const bool finite_go = pack_queries(g, grads.output, i, j, w.count, T(1), s.go.data());
  dot_window(g, s.q.data(), s.keys.data() + plane, s.probs.data());
  dot_window(g, s.go.data(), s.values.data() + plane, s.dots.data());
  for (int64_t k = 0; k < kQueries; ++k) {
    T *prob = s.probs.data() + k * block, *dot = s.dots.data() + k * block;
    if (k >= w.count) {  // no such query
      std::memset(prob, 0, size_t(block) * sizeof(T));
      std::memset(dot, 0, size_t(block) * sizeof(T));
      continue;
    }
    const int64_t bias_column = g.columns.bias(j + k);
    softmax_backward(g, prob, softmax_window(g, prob, w.shift[k], bias_row, bias_column), dot, w.shift[k]);
    if (grads.rpb != nullptr) add_bias(g, dot, w.shift[k], bias_row, bias_column, table);
  }
  weigh_rows(g, s.dots.data(), s.key_rows.data() + corner, w, finite, s.result.data());
  for (int64_t k = 0; k < w.count; ++k) {
    T* own = s.result.data() + k * g.padded;
    for (int64_t c = 0; c < g.padded; c += kLanes<T>) store(own + c, load(own + c) * splat(p.scale));
    store_channels(g.pixel(grads.query, i, j + k), own, p.channels);
  }
  add_rows(g, s.dots.data(), s.q.data(), w, finite_q, s.grad_keys.data() + corner);  // q is already scaled
  add_rows(g, s.probs.data(), s.go.data(), w, finite_go, s.grad_values.data() + corner);
}

template <class T>
static void backward(const NaProblem<T>& p, int64_t begin, int64_t end, const NaGradients<T>& grads) {
  Group<T> g(p);
  Strip<T> s(g);
  const int64_t side = 2 * p.kernel - 1;
  Scratch<T> table(side * g.bias_width);
  for (int64_t task = begin; task < end; ++task) {
    g.enter(task);
    std::memset(table.data(), 0, size_t(side * g.bias_width) * sizeof(T));
    for (int64_t j = 0; j < g.columns.size; j += kQueries) {
      int64_t column;
      const Windows w = strip_windows(g, j, column);
      pack_transposed(g, p.key, column, 0, g.rows.size, s.keys.data());
      pack_transposed(g, p.value, column, 0, g.rows.size, s.values.data());
      const bool finite = pack_rows(g, p.key, column, 0, g.rows.size, s.key_rows.data());
      const size_t bytes = size_t(g.rows.size * g.span * g.padded) * sizeof(T);
      std::memset(s.grad_keys.data(), 0, bytes);
      std::memset(s.grad_values.data(), 0, bytes);
      for (int64_t i = 0; i < g.rows.size; ++i) backward_row(g, grads, i, j, w, finite, s, table.data());
      add_strip(g, s.grad_keys.data(), column, w.columns, grads.key);
      add_strip(g, s.grad_values.data(), column, w.columns, grads.value);
    }
    if (grads.rpb != nullptr)
      for (int64_t i = 0; i < side; ++i)
        std::memcpy(grads.rpb + (task * side + i) * side, table.data() + i * g.bias_width + Group<T>::kFront,
                    size_t(side) * sizeof(T));
  }
}

}  // namespace
