// One attention problem: shape, random bf16 values in a packed projection [T, (H + 2G) * D], and what a kernel made of it; and the grid of
// problems that every version of the kernels must solve.
#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "kernels/values.h"
#include "meristem_kernels/attention.h"

namespace meristem::test {

struct AttentionCase {
  std::string name;
  std::vector<int> lengths;  // of the documents
  int heads, kv_heads, head_dim;
  int window_left = -1, window_right = 0;
  float query_factor = 1;  // of a standard normal
  float bias = 0;          // added to queries, taken from keys: far below zero go the scores
  std::uint32_t seed = 0;  // of the schedule
  bool tiled = false;      // the backward pass that adds dQ up, if the device has the shared memory for it
};

template <class Memory>
class AttentionProblem {
 public:
  template <class T>
  using Array = typename Memory::template Array<T>;

  explicit AttentionProblem(const AttentionCase& parameters)
      : given(parameters),
        tokens(total(parameters.lengths)),
        columns((parameters.heads + 2 * parameters.kv_heads) * parameters.head_dim),
        offsets(parameters.lengths.size() + 1),
        qkv(size(columns)),
        out_columns(parameters.heads * parameters.head_dim + 8),  // eight of a neighbour's, which must stay as they are
        out(size(out_columns)),
        d_out(size(out_columns)),
        d_qkv(size(columns)),
        log_sum_exp(static_cast<std::size_t>(tokens * parameters.heads)),
        delta(static_cast<std::size_t>(tokens * parameters.heads)),
        dq_sums(sums()) {
    offsets[0] = 0;
    for (std::size_t i = 0; i < given.lengths.size(); ++i) offsets[i + 1] = offsets[i] + given.lengths[i];
    std::mt19937 random(17);
    std::normal_distribution<float> normal;
    for (int t = 0; t < tokens; ++t) {
      for (int c = 0; c < columns; ++c) {
        const bool query = c < given.heads * given.head_dim, key = !query && c < (given.heads + given.kv_heads) * given.head_dim;
        const float value = normal(random);
        qkv[at(t, c, columns)] = element_of<Bf16>(query ? value * given.query_factor + given.bias : key ? value - given.bias : value);
      }
    }
    for (Bf16& word : d_out) word = element_of<Bf16>(normal(random));
  }

  void run_forward() {
    kernels::attention_forward(shape(), input('q'), input('k'), input('v'), output(), log_sum_exp.data(), nullptr);
    Memory::finish();
  }
  // Reads the output and the log-sum-exp that are there.
  void run_backward() {
    kernels::attention_backward(shape(), input('q'), input('k'), input('v'), {out.data(), out_columns, given.head_dim},
                                {d_out.data(), out_columns, given.head_dim}, log_sum_exp.data(), delta.data(),
                                dq_sums.size() > 0 ? dq_sums.data() : nullptr, gradient('q'), gradient('k'), gradient('v'), nullptr);
    Memory::finish();
  }
  void run() {
    run_forward();
    run_backward();
  }

  kernels::AttentionShape shape() const {
    return {tokens,         given.heads,       given.kv_heads,     given.head_dim, static_cast<int>(given.lengths.size()),
            offsets.data(), given.window_left, given.window_right, scale()};
  }
  float scale() const { return 1 / std::sqrt(static_cast<float>(given.head_dim)); }
  int first_column(char part) const {
    return (part == 'q' ? 0 : part == 'k' ? given.heads : given.heads + given.kv_heads) * given.head_dim;
  }
  kernels::AttentionInput input(char part) const { return {qkv.data() + first_column(part), columns, given.head_dim}; }
  kernels::AttentionOutput output() const { return {out.data(), out_columns, given.head_dim}; }
  kernels::AttentionOutput gradient(char part) const { return {d_qkv.data() + first_column(part), columns, given.head_dim}; }

  // Element d of row `token`, head `head`.
  float value(char part, int token, int head, int d) const {
    return value_of(qkv[at(token, first_column(part) + head * given.head_dim + d, columns)]);
  }
  static std::size_t at(int row, int column, int columns) {
    return static_cast<std::size_t>(row) * static_cast<std::size_t>(columns) + static_cast<std::size_t>(column);
  }

  AttentionCase given;
  int tokens, columns;
  Array<std::int32_t> offsets;
  Array<Bf16> qkv;
  int out_columns;
  Array<Bf16> out, d_out, d_qkv;
  Array<float> log_sum_exp, delta, dq_sums;

 private:
  static int total(const std::vector<int>& lengths) {
    int sum = 0;
    for (const int length : lengths) sum += length;
    return sum;
  }
  std::size_t sums() const { return given.tiled ? static_cast<std::size_t>(kernels::attention_sums(shape())) : 0; }
  std::size_t size(int width) const { return static_cast<std::size_t>(tokens) * static_cast<std::size_t>(width); }
};

inline std::vector<AttentionCase> attention_cases() {
  return {
      // name, documents, H, G, D, left, right, factor, bias, schedule
      {"one token", {1}, 1, 1, 64},
      {"one below a tile", {63}, 2, 1, 64, -1, 0, 1, 0, 1},
      {"a tile", {64}, 1, 1, 128},
      {"one above a tile", {65}, 2, 2, 64, -1, -1, 1, 0, 2},
      {"half a query tile left, causal", {192}, 2, 1, 64, -1, 0, 1, 0, 3},
      {"half a query tile left, full", {192}, 1, 1, 128, -1, -1},
      {"three tiles and a bit", {200}, 3, 1, 64, -1, 0, 8, 0, 1},
      {"sharp", {200}, 1, 1, 128, -1, -1, 8},
      {"long and sharp", {520}, 1, 1, 64, -1, 0, 8},
      // One key has all the weight, and the next one is more than 88 below it: exp of a score less any other maximum overflows.
      {"one key a row", {200}, 1, 1, 64, -1, 0, 200},
      {"one key a row, full, D 128", {140}, 1, 1, 128, -1, -1, 200},
      {"log-sum-exp below -88", {150}, 2, 1, 64, -1, 0, 1, 4},
      {"log-sum-exp below -88, D 128", {130}, 1, 1, 128, -1, -1, 1, 4},
      {"empty documents", {0, 5, 0, 0, 70, 1, 130, 0}, 2, 1, 64},
      {"empty documents, full, D 128", {0, 33, 0, 129}, 2, 1, 128, -1, -1},
      {"window", {300}, 2, 1, 64, 40, 0, 1, 0, 2},
      {"window of one", {140}, 1, 1, 64, 0, 0},
      {"window on both sides", {200}, 1, 1, 128, 30, 50},
      {"window to the right alone", {200}, 1, 1, 64, 0, 70},
      {"window over packed documents", {100, 0, 150, 3}, 2, 2, 64, 63, 0, 1, 0, 3},
      {"window wider than the document", {70}, 1, 1, 64, 500, 500},
      {"eight heads a group", {70}, 8, 1, 64},
      {"eight heads a group, D 128", {66}, 8, 1, 128},
      {"five heads a group, two groups", {40, 30}, 10, 2, 64, -1, -1},
      {"seven heads a group, D 128", {33, 20}, 14, 2, 128, -1, -1},
      // Windows whose edges fall on every kind of place within the 16, 32 and 64 rows of a fragment, a step and a tile.
      {"window of 14 mod 16", {200}, 1, 1, 64, 78},
      {"window of 15 mod 16", {200}, 1, 1, 64, 47, 0, 1, 0, 4},
      {"window of 16", {200}, 1, 1, 128, 16, 16},
      {"window of a tile less one, both sides", {260}, 1, 1, 64, 63, 63},
      {"window of a tile, both sides", {260}, 1, 1, 64, 64, 64},
      {"window of two tiles and one", {400}, 1, 1, 64, 129, 1},
      {"window of 14 mod 16 to the right", {200}, 1, 1, 64, 1, 78},
      {"window of 30, D 128", {200}, 1, 1, 128, 30},
      {"window of 31, D 128", {200}, 1, 1, 128, 31, 1},
      {"window of 33 to the right, D 128", {170}, 1, 1, 128, 0, 33},
      // exp(0 - log_sum_exp) overflows for the zeros of padding, which lie before the next document's rows.
      {"packed, log-sum-exp below -88", {70, 50, 0, 90, 1}, 2, 1, 64, -1, 0, 1, 4},
      {"packed, log-sum-exp below -88, full", {70, 50, 33}, 1, 1, 64, -1, -1, 1, 4},
      {"packed, log-sum-exp below -88, full, D 128", {70, 50, 33}, 2, 2, 128, -1, -1, 1, 4},
      {"packed, log-sum-exp below -88, window", {140, 75}, 1, 1, 64, 20, 20, 1, 4},
      {"documents of one token", {1, 1, 1, 0, 1}, 3, 3, 64},
      {"documents of a tile", {128, 128, 64}, 1, 1, 64},
      {"documents of a tile, D 128", {64, 128, 32}, 1, 1, 128, -1, -1},
  };
}

// Shapes that nobody chose.
inline std::vector<AttentionCase> random_attention_cases(int count) {
  std::vector<AttentionCase> cases;
  std::mt19937 random(23);
  const auto below = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
  for (int i = 0; i < count; ++i) {
    AttentionCase next;
    next.name = "random " + std::to_string(i);
    for (int documents = 1 + below(4); documents > 0; --documents) next.lengths.push_back(below(4) == 0 ? 0 : below(140));
    next.lengths.push_back(1 + below(90));
    next.kv_heads = 1 + below(2);
    next.heads = next.kv_heads * (1 + below(3));
    next.head_dim = below(3) == 0 ? 128 : 64;
    next.window_left = below(2) == 0 ? -1 : below(120);
    next.window_right = below(2) == 0 ? 0 : below(2) == 0 ? -1 : below(100);
    next.query_factor = below(3) == 0 ? 8 : 1;
    next.seed = random() % 5;
    cases.push_back(next);
  }
  return cases;
}

// A problem whose rows lie so far apart that offsets go beyond 2^31 elements. Its results must be those of the same rows side by side, to
// the bit. Empty, or what is wrong. rows: in each row q, k, v, out, d_out, dq, dk, dv; of 8.7 GB, the touched pages alone exist.
template <class Memory>
std::string wrong_far_rows(bool tiled) {
  constexpr std::int64_t kStride = std::int64_t{1} << 26;
  constexpr int kTokens = 65, kDim = 64;
  AttentionCase one{"offsets beyond 2^31 elements", {kTokens}, 1, 1, kDim};
  one.tiled = tiled;
  AttentionProblem<Memory> near(one);
  near.run();
  typename Memory::template Array<Bf16> rows(static_cast<std::size_t>(kStride * (kTokens - 1) + 8 * kDim), /*poison=*/false);
  typename Memory::template Array<float> log_sum_exp(kTokens), delta(kTokens);
  const auto row = [&](int part, int token) { return rows.data() + part * kDim + token * kStride; };
  const auto near_qkv = [&](const auto& of, int token) { return &of[near.at(token, 0, near.columns)]; };
  const auto near_out = [&](const auto& of, int token) { return &of[near.at(token, 0, near.out_columns)]; };
  for (int t = 0; t < kTokens; ++t) {
    std::copy_n(near_qkv(near.qkv, t), 3 * kDim, row(0, t));
    std::copy_n(near_out(near.d_out, t), kDim, row(4, t));
  }
  const auto input = [&](int part) { return kernels::AttentionInput{row(part, 0), kStride, kDim}; };
  const auto output = [&](int part) { return kernels::AttentionOutput{row(part, 0), kStride, kDim}; };
  kernels::attention_forward(near.shape(), input(0), input(1), input(2), output(3), log_sum_exp.data(), nullptr);
  kernels::attention_backward(near.shape(), input(0), input(1), input(2), input(3), input(4), log_sum_exp.data(), delta.data(),
                              tiled ? near.dq_sums.data() : nullptr, output(5), output(6), output(7), nullptr);
  Memory::finish();
  for (int t = 0; t < kTokens; ++t) {
    if (!std::equal(row(3, t), row(3, t) + kDim, near_out(near.out, t))) return "out, row " + std::to_string(t);
    if (!std::equal(row(5, t), row(5, t) + 3 * kDim, near_qkv(near.d_qkv, t))) return "gradients, row " + std::to_string(t);
  }
  return "";
}

}  // namespace meristem::test
