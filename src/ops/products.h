// Products of matrices on the CPU by our own kernels (ops/cpu/matrices.inc), over threads. Rows may come in groups, each with a matrix of
// its own: experts. A block of a result is one piece of work whatever the number of threads, so that the bits do not depend on it.
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

namespace meristem::ops {

// Rows sorted by group: group g ends before row ends[g]. All tensors: float32 or bfloat16 on the CPU, with dense rows.
using GroupEnds = std::vector<std::int64_t>;

// Whether groups are so many that each is the work of one of `threads`.
bool a_thread_each(std::int64_t groups, std::int64_t threads);

// Of groups that threads share no more is packed at once than so much for each thread, unless one alone needs it.
constexpr std::int64_t kPackedBytes = 2 << 20;

// Whether these kernels take products over a depth: pairs of bf16 stand side by side in memory.
bool multiplies(const at::Tensor& x, std::int64_t depth);

// y_MO of each row's group: x_MI W_g^T. weight_GOI: [G, O, I].
void multiply_rows(const at::Tensor& x_MI, const at::Tensor& weight_GOI, const GroupEnds& ends, const at::Tensor& y_MO);

// dx_MI: dy_MO W_g.
void multiply_rows_back(const at::Tensor& dy_MO, const at::Tensor& weight_GOI, const GroupEnds& ends, const at::Tensor& dx_MI);

// d_weight_GOI: the sum over a group's rows of dy^T x. Written where it has the type of x and is no float32; added where it is float32.
void add_outer_products(const at::Tensor& dy_MO, const at::Tensor& x_MI, const GroupEnds& ends, const at::Tensor& d_weight_GOI);

// Of a group's rows, those that add_outer_products packs and adds at a time, so that the products read them from cache: equal parts of
// about a megabyte, or of 512 rows.
std::int64_t outer_rows(std::int64_t rows, std::int64_t out, std::int64_t in);

}  // namespace meristem::ops
