// One problem of attention over depth: shape, random bf16 values in buffers of their own with rows that stand apart, and what a kernel made
// of it; and the grid of problems that every version of the kernels must solve.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <deque>
#include <random>
#include <string>
#include <vector>

#include "kernels/values.h"
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
template <class Memory>
struct DepthMatrix {
  DepthMatrix(int row_count, int column_count, int gap)
      : rows(row_count),
        columns(column_count),
        stride(column_count + gap),
        words(static_cast<std::size_t>(rows) * static_cast<std::size_t>(stride)) {}
  std::size_t at(int row, int column) const {
    return static_cast<std::size_t>(row) * static_cast<std::size_t>(stride) + static_cast<std::size_t>(column);
  }
  float value(int row, int column) const { return value_of(words[at(row, column)]); }
  void fill(std::mt19937& random, float factor) {
    std::normal_distribution<float> normal;
    for (int r = 0; r < rows; ++r) {
      for (int c = 0; c < columns; ++c) words[at(r, c)] = element_of<Bf16>(normal(random) * factor);
    }
  }
  kernels::DepthInput input() const { return {words.data(), stride}; }
  kernels::DepthOutput output() const { return {words.data(), stride}; }

  int rows, columns, stride;
  typename Memory::template Array<Bf16> words;
};

template <class Memory>
class DepthProblem {
 public:
  using Matrix = DepthMatrix<Memory>;

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

  void run_forward() {
    const auto k = inputs_of(keys), v = inputs_of(values);
    const auto forward = given.join ? kernels::depth_attention_join : kernels::depth_attention_forward;
    forward(shape(), q.input(), k.data(), v.data(), out.output(), lse(), nullptr);
    Memory::finish();
  }
  // From the output and the log-sum-exp that are there.
  void run_backward() {
    const auto k = inputs_of(keys), v = inputs_of(values);
    const auto dk = gradients(0), dv = gradients(1);
    kernels::depth_attention_backward(shape(), q.input(), k.data(), v.data(), out.input(), d_out.input(), lse(), dq.output(),
                                      given.join ? kernels::DepthGradient::kAdd : kernels::DepthGradient::kWrite, dk.data(), dv.data(),
                                      nullptr);
    Memory::finish();
  }
  void run() {
    run_forward();
    run_backward();
  }

  static std::vector<kernels::DepthInput> inputs_of(const std::deque<Matrix>& entries) {
    std::vector<kernels::DepthInput> table;
    for (const Matrix& entry : entries) table.push_back(entry.input());
    return table;
  }
  // side: 0 for keys, 1 for values.
  std::vector<kernels::DepthEntryGradient> gradients(int side) const {
    std::vector<kernels::DepthEntryGradient> table;
    for (const Matrix& one : side == 0 ? d_keys : d_values) {
      const bool add = adds(static_cast<int>(table.size()), side);
      table.push_back({one.output(), add ? kernels::DepthGradient::kAdd : kernels::DepthGradient::kWrite});
    }
    return table;
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
  Matrix q, out, out_before, d_out, dq, dq_before;
  std::deque<Matrix> keys, values, d_keys, d_values, d_keys_before, d_values_before;
  typename Memory::template Array<float> log_sum_exp;
  std::vector<float> before;  // log_sum_exp as the other attention left it

 private:
  int gap(int columns) const { return given.apart ? columns : 0; }
  static void copy(const Matrix& from, Matrix& to) {
    for (int r = 0; r < from.rows; ++r) {
      for (int c = 0; c < from.columns; ++c) to.words[to.at(r, c)] = from.words[from.at(r, c)];
    }
  }
};

inline std::vector<DepthCase> depth_cases() {
  return {
      // name, N, H, G, D, M, join, factor, prior, schedule, apart, gathers
      {"one entry", 3, 1, 1, 64, 1},
      {"one token", 1, 2, 1, 64, 5, false, 1, 0, 1},
      {"a batch of entries and one", 5, 2, 2, 64, 5},
      {"odd tokens, three heads a group", 7, 6, 2, 64, 6, false, 1, 0, 2},
      {"four heads a group", 9, 4, 1, 128, 3},
      {"five heads a group", 3, 5, 1, 64, 4, false, 8},
      {"eight heads a group", 5, 16, 2, 128, 3, false, 1, 0, 3},
      {"sixteen heads a group", 2, 16, 1, 64, 3},
      {"a head a warp, as the separate kind has it", 6, 3, 3, 256, 4},
      {"two heads of a warp's width", 3, 4, 2, 256, 3},
      {"heads wider than a warp", 5, 2, 2, 384, 3, false, 1, 0, 1},
      {"heads four times as wide", 3, 1, 1, 1024, 2},
      {"lanes without columns", 11, 4, 2, 96, 4},
      {"lanes without columns, wide", 3, 1, 1, 648, 3},
      {"a lane a row", 70, 2, 2, 8, 3},
      {"sharp", 4, 2, 1, 64, 9, false, 16},
      {"so sharp that no other score than the largest can be the maximum", 4, 2, 1, 64, 9, false, 128},
      {"as sharp, a head a group", 4, 1, 1, 64, 9, false, 128},
      {"as sharp, five heads a group", 3, 5, 1, 64, 9, false, 128},
      {"as sharp, heads wider than a warp", 3, 1, 1, 384, 9, false, 128},
      {"every entry that there may be", 2, 1, 1, 64, 128},
      {"joined", 5, 4, 2, 64, 3, true},
      {"joined, eight heads a group", 9, 8, 1, 128, 5, true, 1, 2, 2},
      {"joined to far larger scores", 5, 2, 1, 64, 3, true, 1, 200},
      {"joined to far smaller scores", 5, 2, 1, 64, 3, true, 1, -200},
      {"joined, one entry", 1, 1, 1, 64, 1, true},
      {"joined, a head wider than a warp", 3, 1, 1, 520, 2, true},
      {"gradients gathered over calls", 5, 4, 2, 64, 5, false, 1, 0, 1, true, true},
      {"gathered, eight heads a group, joined", 3, 8, 1, 128, 3, true, 1, 0, 0, true, true},
      {"gathered, heads wider than a warp", 3, 1, 1, 400, 3, false, 1, 0, 0, true, true},
  };
}

// Shapes that nobody chose.
inline std::vector<DepthCase> random_depth_cases(int count) {
  std::vector<DepthCase> cases;
  std::mt19937 random(29);
  const auto below = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
  for (int i = 0; i < count; ++i) {
    DepthCase next;
    next.name = "random " + std::to_string(i);
    next.tokens = 1 + below(12);
    next.kv_heads = 1 + below(3);
    next.heads = next.kv_heads * (1 + below(8));
    next.head_dim = 8 * (1 + below(16));
    next.entries = 1 + below(11);
    next.join = below(3) == 0;
    next.query_factor = below(3) == 0 ? 8 : 1;
    next.seed = random() % 5;
    next.gathers = below(3) == 0;
    cases.push_back(next);
  }
  return cases;
}

}  // namespace meristem::test
