// One problem of attention over depth: shape, random bf16 values in buffers of their own with rows that stand apart, and what a kernel made
// of it.
#pragma once

#include <cmath>
#include <cstdint>
#include <deque>
#include <random>
#include <string>
#include <vector>

#include "kernels/attention/problem.h"
#include "meristem_kernels/depth_attention.h"

namespace meristem::test {

struct DepthCase {
  std::string name;
  int tokens, heads, kv_heads, head_dim, entries;
  bool join = false;       // another attention has begun the softmax, and left a gradient in dq
  float query_factor = 1;  // of a standard normal
  float prior = 0;         // the mean of the other attention's log-sum-exp
  std::uint32_t seed = 0;  // of the schedule
  bool apart = true;       // rows have gaps between them
  bool gathers = false;    // gradients of every other entry are added to what later calls left
};

// Rows of `columns` elements and a few of a neighbour's, which must stay as they are.
struct DepthMatrix {
  DepthMatrix(int row_count, int column_count, int gap)
      : rows(row_count),
        columns(column_count),
        stride(column_count + gap),
        words(static_cast<std::size_t>(rows) * static_cast<std::size_t>(stride)) {}
  std::size_t at(int row, int column) const {
    return static_cast<std::size_t>(row) * static_cast<std::size_t>(stride) + static_cast<std::size_t>(column);
  }
  float value(int row, int column) const { return bf16_value(words[at(row, column)]); }
  void fill(std::mt19937& random, float factor) {
    std::normal_distribution<float> normal;
    for (int r = 0; r < rows; ++r) {
      for (int c = 0; c < columns; ++c) words[at(r, c)] = bf16_bits(normal(random) * factor);
    }
  }
  kernels::DepthInput input() const { return {words.data(), stride}; }
  kernels::DepthOutput output() const { return {words.data(), stride}; }

  int rows, columns, stride;
  DeviceArray<std::uint16_t> words;
};

class DepthProblem {
 public:
  explicit DepthProblem(const DepthCase& parameters)
      : given(parameters),
        q(given.tokens, query_columns(), gap(8)),
        out(given.tokens, query_columns(), gap(16)),
        out_before(given.tokens, query_columns(), 0),
        d_out(given.tokens, query_columns(), gap(8)),
        dq(given.tokens, query_columns(), gap(8)),
        dq_before(given.tokens, query_columns(), 0),
        log_sum_exp(static_cast<std::size_t>(given.tokens * given.heads)) {
    std::mt19937 random(31);
    q.fill(random, given.query_factor);
    d_out.fill(random, 1);
    for (int i = 0; i < given.entries; ++i) {
      keys.emplace_back(given.tokens, kv_columns(), gap(8 * (i % 3))).fill(random, 1);
      values.emplace_back(given.tokens, kv_columns(), gap(8 * ((i + 1) % 2))).fill(random, 1);
      d_keys.emplace_back(given.tokens, kv_columns(), gap(8));
      d_values.emplace_back(given.tokens, kv_columns(), 0);
      d_keys_before.emplace_back(given.tokens, kv_columns(), 0).fill(random, 1);
      d_values_before.emplace_back(given.tokens, kv_columns(), 0).fill(random, 1);
      if (adds(i, 0)) copy(d_keys_before.back(), d_keys.back());
      if (adds(i, 1)) copy(d_values_before.back(), d_values.back());
    }
    std::normal_distribution<float> normal;
    for (int i = 0; i < given.tokens * given.heads; ++i) before.push_back(given.prior + normal(random));
    if (!given.join) return;
    out_before.fill(random, 1);
    dq_before.fill(random, 1);
    copy(out_before, out);
    copy(dq_before, dq);
    std::copy(before.begin(), before.end(), log_sum_exp.begin());
  }

  kernels::DepthAttentionShape shape() const {
    return {given.tokens, given.heads, given.kv_heads, given.head_dim, given.entries, 1 / std::sqrt(static_cast<float>(given.head_dim))};
  }
  // Whether the gradient of an entry's key (side 0) or value (1) is added to what is there.
  bool adds(int entry, int side) const { return given.gathers && (entry + side) % 2 == 0; }
  int query_columns() const { return given.heads * given.head_dim; }
  int kv_columns() const { return given.kv_heads * given.head_dim; }
  // Tokens beside each other where the problem is joined, as ops/attention leaves them, else heads.
  kernels::DepthLogSumExp lse() const {
    return given.join ? kernels::DepthLogSumExp{log_sum_exp.data(), 1, given.tokens}
                      : kernels::DepthLogSumExp{log_sum_exp.data(), given.heads, 1};
  }
  std::size_t lse_place(int token, int head) const {
    return static_cast<std::size_t>(given.join ? head * given.tokens + token : token * given.heads + head);
  }

  DepthCase given;
  DepthMatrix q, out, out_before, d_out, dq, dq_before;
  std::deque<DepthMatrix> keys, values, d_keys, d_values, d_keys_before, d_values_before;
  DeviceArray<float> log_sum_exp;
  std::vector<float> before;  // log_sum_exp as the other attention left it

 private:
  int gap(int columns) const { return given.apart ? columns : 0; }
  static void copy(const DepthMatrix& from, DepthMatrix& to) {
    for (int r = 0; r < from.rows; ++r) {
      for (int c = 0; c < from.columns; ++c) to.words[to.at(r, c)] = from.words[from.at(r, c)];
    }
  }
};

}  // namespace meristem::test
