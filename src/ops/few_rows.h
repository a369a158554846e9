// Products of a few rows with a weight, as decoding has them, on the CPU: the weight is read once from where it stands, and a row of the
// result has the same bits however many rows there are, so that texts that are decoded together come out as each alone.
#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

namespace meristem::ops {

inline constexpr std::int64_t kFewRows = 32;

// While one lives, this thread's products are of tokens that are decoded. (Whether gradients are recorded does not tell: activation
// checkpointing computes a call without, and must give the bits of the call with them.)
class DecodingRows {
 public:
  DecodingRows();
  ~DecodingRows();
  DecodingRows(const DecodingRows&) = delete;
  DecodingRows& operator=(const DecodingRows&) = delete;

 private:
  bool before_;
};

// Whether our kernel takes x_NI [N, I] W^T: while decoding at most kFewRows rows on the CPU, float32 or bfloat16.
bool are_few_rows(const at::Tensor& x_NI, const at::Tensor& weight_OI);

// x_NI W^T, + bias_O where it is defined, of x's type: [N, O].
at::Tensor multiply_few_rows(const at::Tensor& x_NI, const at::Tensor& weight_OI, const at::Tensor& bias_O = {});

// y_NO = x_NI W^T. Columns of x and y stand side by side, rows may stand apart.
void multiply_few_rows_out(const at::Tensor& x_NI, const at::Tensor& weight_OI, const at::Tensor& y_NO);

}  // namespace meristem::ops
