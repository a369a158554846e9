// A problem whose rows lie so far apart that offsets go beyond 2^31 elements. Its results must be those of the same rows side by side, to
// the bit.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "kernels/attention/problem.h"

namespace meristem::test {

constexpr std::int64_t kFarStride = std::int64_t{1} << 26;
constexpr int kFarTokens = 65, kFarDim = 64;
constexpr std::size_t kFarElements = static_cast<std::size_t>(kFarStride * (kFarTokens - 1) + 8 * kFarDim);

inline AttentionCase far_case() { return {"offsets beyond 2^31 elements", {kFarTokens}, 1, 1, kFarDim}; }

// Where the device has its memory. rows: kFarElements, in each row q, k, v, out, d_out, dq, dk, dv; the others as AttentionProblem has
// them.
struct FarBuffers {
  std::uint16_t* rows;
  const std::int32_t* offsets;
  float *log_sum_exp, *delta;
  std::uint16_t* part(int index) const { return rows + index * kFarDim; }
  kernels::AttentionInput input(int index) const { return {part(index), kFarStride, kFarDim}; }
  kernels::AttentionOutput output(int index) const { return {part(index), kFarStride, kFarDim}; }
};

// near: far_case(), forward and backward done. copy(to, from, count) copies elements between host and device, after all launched work.
// Empty, or what is wrong.
template <class Copy>
std::string wrong_far_rows(const FarBuffers& far, const AttentionProblem& near, Copy copy) {
  const auto row = [&](int part, int token) { return far.part(part) + token * kFarStride; };
  for (int t = 0; t < kFarTokens; ++t) {
    copy(row(0, t), &near.qkv[AttentionProblem::at(t, 0, near.columns)], 3 * kFarDim);
    copy(row(4, t), &near.d_out[AttentionProblem::at(t, 0, near.out_columns)], kFarDim);
  }
  kernels::AttentionShape shape = near.shape();
  shape.offsets = far.offsets;
  kernels::attention_forward(shape, far.input(0), far.input(1), far.input(2), far.output(3), far.log_sum_exp, nullptr);
  kernels::attention_backward(shape, far.input(0), far.input(1), far.input(2), far.input(3), far.input(4), far.log_sum_exp, far.delta,
                              far.output(5), far.output(6), far.output(7), nullptr);
  std::vector<std::uint16_t> found(3 * kFarDim);
  const auto differs = [&](int part, int token, const std::uint16_t* expected, int count) {
    copy(found.data(), row(part, token), count);
    return !std::equal(found.begin(), found.begin() + count, expected);
  };
  for (int t = 0; t < kFarTokens; ++t) {
    if (differs(3, t, &near.out[AttentionProblem::at(t, 0, near.out_columns)], kFarDim)) return "out, row " + std::to_string(t);
    if (differs(5, t, &near.d_qkv[AttentionProblem::at(t, 0, near.columns)], 3 * kFarDim)) return "gradients, row " + std::to_string(t);
  }
  return "";
}

}  // namespace meristem::test
