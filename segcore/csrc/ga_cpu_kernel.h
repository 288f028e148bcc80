// Attention of queries to all pixels of a map, whose value at (y, x) is rows[y] + columns[x]. With the weights
// p(y, x) = softmax of the scores,
//
//   sum over (y, x) of p(y, x) (rows[y] + columns[x])
//     = sum over y of (sum over x of p(y, x)) rows[y] + sum over x of (sum over y of p(y, x)) columns[x]:
//
// the product of weights and values, half of attention's arithmetic, becomes two sums of weights.
//
// Lanes are queries. A row of the map is scored at once; the greatest score of each query so far is what its weights
// are relative to, and when it grows all sums so far are scaled (online softmax, arXiv:1805.02867).
#pragma once
#include "ga_cpu.h"
#include "query_lanes.h"
#include "scratch.h"

namespace {

using segcore::GaProblem;

// Vectors of queries and pixels whose scores are kept in registers: 5 x 4 of AVX-512's 32, 2 x 4 of the others' 16.
constexpr int kVectors = SEGCORE_VECTOR_BYTES == 64 ? 5 : 2;
constexpr int kPixels = 4;
constexpr int64_t kBlock = kVectors * kWide;  // queries of a task

// What is kept for a block of queries: places, each a number of every query.
struct Sums {
  float* query;       // (D): the query's channels, scaled
  float* of_rows;     // (H): weights summed over x
  float* of_columns;  // (W): weights summed over y
  float* greatest;    // (1): the greatest score so far, which the weights are relative to
  float* scores;      // (W): of a row; all blocks use the same memory

  static int64_t places(const GaProblem& p) { return p.channels + p.height + p.width + 1; }
  static int64_t size(const GaProblem& p, int64_t blocks) { return (blocks * places(p) + p.width) * kBlock; }

  Sums(const GaProblem& p, float* memory, int64_t blocks, int64_t number)
      : query(memory + number * places(p) * kBlock), of_rows(query + p.channels * kBlock),
        of_columns(of_rows + p.height * kBlock), greatest(of_columns + p.width * kBlock),
        scores(memory + blocks * places(p) * kBlock) {}
};

// Queries first .. first + kBlock, channels apart; past the last they are 0.
static void start(const GaProblem& p, const float* queries, int64_t first, const Sums& sums) {
  for (int64_t i = 0; i < kBlock; ++i) {
    sums.greatest[i] = -INFINITY;
    for (int64_t c = 0; c < p.channels; ++c)
      sums.query[c * kBlock + i] =
          first + i < p.queries ? queries[(first + i) * p.query.place + c] * p.scale : 0.0f;
  }
}

static inline void fetch(const float* from, int64_t count) {
#ifdef SEGCORE_VECTORS
  for (int64_t i = 0; i < count; i += 16) __builtin_prefetch(from + i);
#endif
}

template <int kCount>
static inline void score(const GaProblem& p, const float* key, float* scores, const Sums& sums, Floats* greatest) {
  // Of the next row: a head's channels lie apart from the next pixel's, which no processor foresees.
  for (int i = 0; i < kCount; ++i) fetch(key + (p.width + i) * p.key.place, p.channels);
  Floats found[kCount][kVectors] = {};
  multiply<kCount, kVectors>(sums.query, p.channels, key, p.key.place, 1, found);
  for (int i = 0; i < kCount; ++i)
    for (int v = 0; v < kVectors; ++v) {
      store(scores + i * kBlock + v * kWide, found[i][v]);
      greatest[v] = maximum(found[i][v], greatest[v]);
    }
}

// Makes `greatest` what the sums of the rows before y are relative to.
static void rescale(const GaProblem& p, int64_t y, const Floats* greatest, const Sums& sums) {
  float factor[kBlock];
  if (!raise_greatest<kVectors>(sums.greatest, greatest, factor) || y == 0) return;
  scale<kVectors>(sums.of_rows, y, factor);
  scale<kVectors>(sums.of_columns, p.width, factor);
}

// The scores of row y, and its weights into the sums.
static void add_row(const GaProblem& p, const float* key, int64_t y, const Sums& sums) {
  Floats greatest[kVectors], row[kVectors] = {};
  for (int v = 0; v < kVectors; ++v) greatest[v] = load(sums.greatest + v * kWide);
  int64_t x = 0;
  for (; x + kPixels <= p.width; x += kPixels)
    score<kPixels>(p, key + x * p.key.place, sums.scores + x * kBlock, sums, greatest);
  for (; x < p.width; ++x) score<1>(p, key + x * p.key.place, sums.scores + x * kBlock, sums, greatest);
  rescale(p, y, greatest, sums);
  for (x = 0; x < p.width; ++x)
    for (int v = 0; v < kVectors; ++v) {
      const int64_t i = x * kBlock + v * kWide;
      const Floats weight = exponential(load(sums.scores + i) - greatest[v]);
      row[v] += weight;
      store(sums.of_columns + i, y > 0 ? load(sums.of_columns + i) + weight : weight);
    }
  for (int v = 0; v < kVectors; ++v) store(sums.of_rows + y * kBlock + v * kWide, row[v]);
}

// (sums of rows) x rows + (sums of columns) x columns, over the sum of all weights.
static void finish(const GaProblem& p, int64_t head, int64_t first, const Sums& sums, float* output) {
  Floats all[kVectors] = {};
  for (int64_t y = 0; y < p.height; ++y)
    for (int v = 0; v < kVectors; ++v) all[v] += load(sums.of_rows + y * kBlock + v * kWide);
  const int64_t count = smaller(kBlock, p.queries - first), place = p.heads * p.channels;
  for (int64_t c = 0; c < p.channels; ++c) {
    Floats found[1][kVectors] = {};
    multiply<1, kVectors>(sums.of_rows, p.height, p.rows + head * p.channels + c, 0, place, found);
    multiply<1, kVectors>(sums.of_columns, p.width, p.columns + head * p.channels + c, 0, place, found);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t v = i / kWide, lane = i % kWide;
      output[(first + i) * p.output.place + c] = found[0][v][lane] / all[v][lane];
    }
  }
}

// Tasks (image, head, part of the blocks of queries): a part goes through the map once with all of its blocks, so that
// a row of keys is read once for them.
static void forward(const GaProblem& p, int64_t parts, int64_t begin, int64_t end) {
  const int64_t blocks = (p.queries + kBlock - 1) / kBlock;
  Scratch<float> memory(Sums::size(p, blocks));
  for (int64_t task = begin; task < end; ++task) {
    const int64_t image = task / parts / p.heads, head = task / parts % p.heads, part = task % parts;
    const int64_t from = blocks * part / parts, to = blocks * (part + 1) / parts;
    const float* key = p.key.data + image * p.key.image + head * p.key.head;
    const float* query = p.query.data + image * p.query.image + head * p.query.head;
    float* output = p.output.data + image * p.output.image + head * p.output.head;
    for (int64_t b = from; b < to; ++b) start(p, query, b * kBlock, Sums(p, memory.data(), blocks, b));
    for (int64_t y = 0; y < p.height; ++y)
      for (int64_t b = from; b < to; ++b)
        add_row(p, key + y * p.width * p.key.place, y, Sums(p, memory.data(), blocks, b));
    for (int64_t b = from; b < to; ++b) finish(p, head, b * kBlock, Sums(p, memory.data(), blocks, b), output);
  }
}

}  // namespace
