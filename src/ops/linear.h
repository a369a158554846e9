// y = x W^T, + b, and the rows of an embedding. The path `fused` multiplies by our own CPU kernels (ops/products.h). A weight's gradient is
// added straight to where the parameter's gradients are summed, where there is such a place.
#pragma once

#include <algorithm>
#include <cstdint>

#include <ATen/core/Tensor.h>

#include "ops/paths.h"

namespace meristem::ops {

// Where the gradients of `parameter` are summed in fp32 (FlatParameters makes its grad() such a place), of the parameter's shape; undefined
// where there is none, and an operator hands its gradient on to autograd. On a strand (ops/strands.h): the strand's.
at::Tensor gradient_sum(const at::Tensor& parameter);

// c_MN = a b by LibTorch, of one type.
void library_product(const at::Tensor& a_MK, const at::Tensor& b_KN, const at::Tensor& c_MN);

// sum_OI += dy^T x by LibTorch, the sum in fp32 where dy_NO and x_NI are bf16: on a GPU inside the product.
void add_product(const at::Tensor& sum_OI, const at::Tensor& dy_NO, const at::Tensor& x_NI);

// x_NI: [N, I], weight_OI, bias_O or undefined, of one type -> [N, O].
at::Tensor linear(const at::Tensor& x_NI, const at::Tensor& weight_OI, const at::Tensor& bias_O, Path path);

// tokens_N: int32 or int64 -> [N, D].
at::Tensor embedding(const at::Tensor& weight_VD, const at::Tensor& tokens_N, Path path);

// Bytes that products by our CPU kernels keep from one to the next, each as large as the largest so far.
struct ProductWorkspace {
  double right = 0, left = 0;  // packed: weights or the rows that enter, and gradients of the rows that leave
  double thread = 0;           // of each thread
  void hold(const ProductWorkspace& other) {
    right = std::max(right, other.right);
    left = std::max(left, other.left);
    thread = std::max(thread, other.thread);
  }
};

// Of forward and backward of `rows` rows in all by `threads`, shared out to `groups` matrices of in x out. compute: float32 or bfloat16.
ProductWorkspace product_workspace(std::int64_t rows, std::int64_t in, std::int64_t out, std::int64_t groups, at::ScalarType compute,
                                   std::int64_t threads);

}  // namespace meristem::ops
