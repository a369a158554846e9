// y = x W^T, + b, and the rows of an embedding. The path `fused` multiplies by our own CPU kernels (ops/products.h), and adds a weight's
// gradient straight to where the parameter's gradients are summed, where there is such a place.
#pragma once

#include <ATen/core/Tensor.h>

#include "ops/paths.h"

namespace meristem::ops {

// Where the gradients of `parameter` are summed in fp32 (FlatParameters makes its grad() such a place), of the parameter's shape; undefined
// where there is none, and an operator hands its gradient on to autograd.
at::Tensor gradient_sum(const at::Tensor& parameter);

// x_NI: [N, I], weight_OI, bias_O or undefined, of one type -> [N, O].
at::Tensor linear(const at::Tensor& x_NI, const at::Tensor& weight_OI, const at::Tensor& bias_O, Path path);

// tokens_N: int32 or int64 -> [N, D].
at::Tensor embedding(const at::Tensor& weight_VD, const at::Tensor& tokens_N, Path path);

// Bytes that products by our CPU kernels need at most beside their tensors, `rows` rows in all with `groups` matrices of in x out, and keep
// from step to step.
double product_workspace(double rows, double in, double out, double groups, double element_size);

}  // namespace meristem::ops
