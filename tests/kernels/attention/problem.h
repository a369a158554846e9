// One attention problem: shape, random bf16 values in a packed projection [T, (H + 2G) * D], and what a kernel made of it.
#pragma once

#include <cmath>
#include <cstdint>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "device/layer.h"
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
};

inline std::uint16_t bf16_bits(double value) { return static_cast<std::uint16_t>(kernels::device::bf16_of(static_cast<float>(value))); }
inline float bf16_value(std::uint16_t bits) { return kernels::device::low_bf16(bits); }

template <class T>
using DeviceArray = kernels::device::host::Array<T>;

class AttentionProblem {
 public:
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
        delta(static_cast<std::size_t>(tokens * parameters.heads)) {
    offsets[0] = 0;
    for (std::size_t i = 0; i < given.lengths.size(); ++i) offsets[i + 1] = offsets[i] + given.lengths[i];
    std::mt19937 random(17);
    std::normal_distribution<float> normal;
    for (int t = 0; t < tokens; ++t) {
      for (int c = 0; c < columns; ++c) {
        const bool query = c < given.heads * given.head_dim, key = !query && c < (given.heads + given.kv_heads) * given.head_dim;
        const float value = normal(random);
        qkv[at(t, c, columns)] = bf16_bits(query ? value * given.query_factor + given.bias : key ? value - given.bias : value);
      }
    }
    for (std::uint16_t& word : d_out) word = bf16_bits(normal(random));
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
    return bf16_value(qkv[at(token, first_column(part) + head * given.head_dim + d, columns)]);
  }
  static std::size_t at(int row, int column, int columns) {
    return static_cast<std::size_t>(row) * static_cast<std::size_t>(columns) + static_cast<std::size_t>(column);
  }

  AttentionCase given;
  int tokens, columns;
  DeviceArray<std::int32_t> offsets;
  DeviceArray<std::uint16_t> qkv;
  int out_columns;
  DeviceArray<std::uint16_t> out, d_out, d_qkv;
  DeviceArray<float> log_sum_exp, delta;

 private:
  static int total(const std::vector<int>& lengths) {
    int sum = 0;
    for (const int length : lengths) sum += length;
    return sum;
  }
  std::size_t size(int width) const { return static_cast<std::size_t>(tokens) * static_cast<std::size_t>(width); }
};

}  // namespace meristem::test
