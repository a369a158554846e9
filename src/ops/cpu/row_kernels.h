// Our CPU kernels over rows of memory: raw pointers and sizes, no LibTorch, no threads. One source is compiled for four instruction
// sets; row_kernels() picks the best one that this
// processor has. Callers split the rows over threads.
// `bf16` arrays are passed as std::uint16_t. All arithmetic is fp32; conversions to bf16 round to nearest even.
#pragma once

#include <cstdint>

namespace meristem::ops::cpu {

struct AdamwScalars {
  float lr, beta1, beta2, eps, weight_decay;
  float bias1, bias2_sqrt;  // 1 - beta1^t, sqrt(1 - beta2^t)
  float grad_scale;         // clip factor over the number of valid tokens
};

// Rows that may stand apart: row r begins at data + r * stride.
template <class X>
struct Rows {
  X* data;
  std::int64_t stride;
};

// Shapes of attention over depth (ops/depth_attention.h). Heads h of a group share key head h / (heads / kv_heads).
struct DepthShape {
  std::int64_t entries, heads, kv_heads, head_dim;
};
constexpr std::int64_t kDepthTokens = 16;  // tokens that are worked on together
// Where an entry's gradient goes, [rows, kv_heads*head_dim]: written, or added to what is there.
template <class X>
struct DepthGradient {
  X* data;
  bool adds;
};

// Attention of one document for the query heads that share one key head (ops/attention.h): q holds group * head_dim columns a row, k and v
// head_dim. window: 0, or how many tokens one sees. prior: tokens before the document's own, all pieces together, which all of these see,
// as far as the window goes; forward alone.
struct AttentionShape {
  std::int64_t tokens, group, head_dim, window;
  float scale;
  std::int64_t prior = 0;
};
template <class X>
struct PriorRows {
  Rows<X> k, v;
  std::int64_t tokens;
};
template <class X>
struct AttentionRows {
  Rows<X> q, k, v;
  const PriorRows<X>* prior = nullptr;
  std::int64_t priors = 0;  // pieces
};
// The logarithm of the softmax's sum for a token and a head of the group.
template <class F>
struct LogSums {
  F* data;
  std::int64_t token_stride, head_stride;
  F& at(std::int64_t token, std::int64_t head) const { return data[token * token_stride + head * head_stride]; }
};

// C = A B, of which a kernel does a block of kMatrixRows x kMatrixColumns at a time: C goes to `out`, or is added to `sum`, whichever has
// data. A: rows in place, or packed where that has data; B: packed. A bf16 `depth` of rows in place is even.
constexpr std::int64_t kMatrixRows = 64, kMatrixColumns = 256;
template <class X>
struct MatrixProduct {
  std::int64_t rows, columns, depth;
  Rows<const X> left;
  const void *packed_left, *packed_right;
  Rows<X> out;
  Rows<float> sum;
};

constexpr std::int64_t attention_row_scratch(const AttentionShape& shape, std::int64_t keys) {
  return 4 * (shape.group * (shape.head_dim + keys) + shape.head_dim) + 3 * 64;
}

template <class X>
struct TypedKernels {
  // y = h / rms(h) * w, one rstd a row, of h = x + update, which is written; where update is null, of x. x, update, h, y: [rows, width].
  void (*rms_norm)(const X* x, const X* update, const float* w, X* h, X* y, float* rstd, std::int64_t rows, std::int64_t width, float eps);
  // dx = rstd (w dy - h_hat mean(w dy h_hat)), + dh where that is not null; dw += sum over rows of dy h_hat.
  void (*rms_norm_backward)(const X* dy, const X* h, const float* w, const float* rstd, const X* dh, X* dx, float* dw, std::int64_t rows,
                            std::int64_t width);
  // Rotates `heads` heads of head_dim elements at each row in place, half-split layout; cos/sin: [positions, head_dim/2].
  // sign = -1 rotates back, which is the gradient.
  void (*rope)(X* x, std::int64_t row_stride, const std::int32_t* positions, const float* cos, const float* sin, std::int64_t rows,
               std::int64_t heads, std::int64_t head_dim, float sign);
  // y = silu(gate) up; gate_up: [rows, 2 inner], gate first.
  void (*swiglu)(const X* gate_up, X* y, std::int64_t rows, std::int64_t inner);
  void (*swiglu_backward)(const X* dy, const X* gate_up, X* d_gate_up, std::int64_t rows, std::int64_t inner);
  // losses[r] = logsumexp(row) - row[target], 0 where target < 0. With grad: the row becomes softmax - onehot (zeros where ignored).
  void (*cross_entropy)(X* logits, const std::int32_t* targets, float* losses, std::int64_t rows, std::int64_t vocab, bool grad);
  // Rows [begin, end): joins the depth entries to an attention whose output y [rows, heads*head_dim] and logsumexp lse [rows, heads] are
  // given (zeros and -infinity: to none); both become those of the whole softmax. scratch: kDepthTokens *
  // heads * (2 head_dim + 2 + entries) floats.
  void (*depth_attention)(Rows<const X> q, const Rows<const X>* keys, const Rows<const X>* values, X* y, float* lse, std::int64_t begin,
                          std::int64_t end, const DepthShape& shape, float* scratch);
  // The entries' part of the gradient; y and lse are those of the whole softmax. dq [rows, heads*head_dim] is written. scratch:
  // kDepthTokens * heads * (3 head_dim + 3) floats.
  void (*depth_attention_backward)(Rows<const X> dy, Rows<const X> q, const Rows<const X>* keys, const Rows<const X>* values, const X* y,
                                   const float* lse, X* dq, const DepthGradient<X>* dk, const DepthGradient<X>* dv, std::int64_t begin,
                                   std::int64_t end, const DepthShape& shape, float* scratch);
  // out [tokens, group*head_dim] and lse are written. scratch: attention_scratch(shape, false) bytes, 64-byte aligned.
  void (*attention)(const AttentionRows<const X>& in, Rows<X> out, const LogSums<float>& lse, const AttentionShape& shape, void* scratch);
  // out and lse are those of the forward pass; d_in is written. scratch: attention_scratch(shape, true) bytes, 64-byte aligned.
  void (*attention_backward)(const AttentionRows<const X>& in, Rows<const X> out, Rows<const X> d_out, const LogSums<const float>& lse,
                             const AttentionRows<X>& d_in, const AttentionShape& shape, void* scratch);
  std::int64_t (*attention_scratch)(const AttentionShape& shape, bool backward);
  // Experts (ops/experts.h), tokens [begin, end): y of each is the sum over its k choices of weight times row; choice j of token n has row
  // place[n k + j]. weights null: ones.
  void (*combine_rows)(const X* rows, const std::int32_t* place, const float* weights, X* y, std::int64_t begin, std::int64_t end,
                       std::int64_t k, std::int64_t width);
  void (*combine_rows_backward)(const X* dy, const X* rows, const std::int32_t* place, const float* weights, X* d_rows, float* d_weights,
                                std::int64_t begin, std::int64_t end, std::int64_t k, std::int64_t width);
  // sum += x, element by element.
  void (*accumulate)(float* sum, const X* x, std::int64_t count);
  // Bytes of `count` rows or columns of a depth, packed; memory is 64-byte aligned.
  std::int64_t (*packed_bytes)(std::int64_t count, std::int64_t depth);
  // Columns [first, last) of A^T, and of B, whole multiples of 32 but for the end. x: [depth, rows]; [depth, columns], or its transpose.
  void (*pack_left)(Rows<const X> x, std::int64_t depth, std::int64_t rows, std::int64_t first, std::int64_t last, void* memory);
  void (*pack_right)(Rows<const X> x, bool transposed, std::int64_t depth, std::int64_t columns, std::int64_t first, std::int64_t last,
                     void* memory);
  // The block of C from `row` and `column` on. scratch: matrix_scratch bytes, 64-byte aligned.
  void (*multiply_matrices)(const MatrixProduct<X>& product, std::int64_t row, std::int64_t column, void* scratch);
  std::int64_t matrix_scratch;
  // Decoding (cpu/few_rows.inc), where a row's bits do not depend on how many there are. Columns [first, last) of y [rows, .] = x W^T; x
  // [rows, depth], w [., depth] without gaps.
  void (*few_rows)(Rows<const X> x, std::int64_t rows, const X* w, std::int64_t depth, Rows<X> y, std::int64_t first, std::int64_t last);
  // One token's queries q [group*head_dim] of a key head against `keys` keys and values; out as q. shape: group, head_dim and scale.
  // scratch: attention_row_scratch(shape, keys) bytes, 64-byte aligned.
  void (*attention_row)(const X* q, Rows<const X> k, Rows<const X> v, std::int64_t keys, X* out, const AttentionShape& shape,
                        void* scratch);
};

struct RowKernels {
  const char* name;  // "avx512bf16", "avx512", "avx2", "baseline"
  TypedKernels<float> f32;
  TypedKernels<std::uint16_t> bf16;
  // AdamW over count elements; half, where not null, receives the new weights in bf16.
  void (*adamw)(float* p, const float* g, float* m, float* v, std::uint16_t* half, std::int64_t count, const AdamwScalars& s);
  double (*sum_of_squares)(const float* x, std::int64_t count);
};

// The best that this processor runs, or those of use_row_kernels.
const RowKernels& row_kernels();

// Every set of kernels that this processor runs, the best first, and nulls; and which one runs from now on: for tests, not while others
// run.
constexpr int kRowKernelLevels = 4;
void row_kernels_here(const RowKernels* (&levels)[kRowKernelLevels]);
void use_row_kernels(const RowKernels& kernels);

// Whether this processor is Intel's, for which MKL is made; whether it multiplies tiles of bf16 (AMX), which none of our kernels do.
bool is_intel();
bool has_amx_bf16();

}  // namespace meristem::ops::cpu
