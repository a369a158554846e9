#include <cmath>
#include <vector>

#include "ops/attention_passes.h"
#include "ops/launch.h"

namespace meristem::ops {
namespace {

void check_columns(const at::Tensor& qkv_NC, const HeadShape& shape) {
  TORCH_CHECK(shape.head_dim % 2 == 0 && shape.score_cap == 0, "attention: our CPU kernel takes even head dims and no cap on the scores");
  TORCH_CHECK(qkv_NC.size(1) == shape.columns(), "attention: qkv is ", qkv_NC.sizes(), ", expected [N, ", shape.columns(), "]");
}

// Rows that are each without gaps, whatever the distance between them.
at::Tensor with_dense_rows(const at::Tensor& x) { return x.stride(1) == 1 ? x : x.contiguous(); }

// One document under one key head: what no other piece of work touches. prior: tokens that stand before it.
struct Piece {
  std::int64_t first_token, tokens, kv_head;
  std::int64_t first_prior = 0, prior = 0;
};

std::vector<Piece> pieces_of(const Documents& documents, const HeadShape& shape) {
  const auto* starts = documents.offsets.data_ptr<std::int32_t>();
  std::vector<Piece> pieces;
  for (std::int64_t d = 0; d + 1 < documents.offsets.size(0); ++d) {
    const std::int64_t tokens = starts[d + 1] - starts[d];
    const auto before = tokens > 0 ? documents.beginning_of(static_cast<std::size_t>(d)) : std::nullopt;
    for (std::int64_t g = 0; tokens > 0 && g < shape.kv_heads; ++g) {
      pieces.push_back({starts[d], tokens, g});
      if (before) pieces.back().first_prior = starts[*before], pieces.back().prior = starts[*before + 1] - starts[*before];
    }
  }
  return pieces;
}

cpu::AttentionShape kernel_shape(const Piece& piece, const HeadShape& shape) {
  return {piece.tokens,
          shape.heads / shape.kv_heads,
          shape.head_dim,
          shape.window,
          static_cast<float>(1 / std::sqrt(static_cast<double>(shape.head_dim))),
          piece.prior};
}

// body(piece, scratch) for every piece.
template <class Body>
void for_each_piece(const std::vector<Piece>& pieces, const HeadShape& shape,
                    std::int64_t (*scratch_bytes)(const cpu::AttentionShape&, bool), bool backward, const Body& body) {
  parallel_pieces(std::ssize(pieces), [&](std::int64_t i) {
    const Piece& piece = pieces[static_cast<std::size_t>(i)];
    body(piece, thread_scratch(scratch_bytes(kernel_shape(piece, shape), backward)));
  });
}

template <class X>
cpu::Rows<X> rows_at(const at::Tensor& x, std::int64_t row, std::int64_t column) {
  return {data_of<std::remove_const_t<X>>(x) + row * x.stride(0) + column, x.stride(0)};
}

// A piece's columns of a packed projection, or of its gradient.
template <class X>
cpu::AttentionRows<X> packed_rows(const at::Tensor& qkv_NC, const Piece& piece, const HeadShape& shape) {
  const std::int64_t first = piece.first_token, dim = shape.head_dim, group = shape.heads / shape.kv_heads, keys = shape.query_columns(),
                     values = keys + shape.kv_columns();
  return {rows_at<X>(qkv_NC, first, piece.kv_head * group * dim), rows_at<X>(qkv_NC, first, keys + piece.kv_head * dim),
          rows_at<X>(qkv_NC, first, values + piece.kv_head * dim), rows_at<X>(qkv_NC, piece.first_prior, keys + piece.kv_head * dim),
          rows_at<X>(qkv_NC, piece.first_prior, values + piece.kv_head * dim)};
}

// A piece's columns of the result, or of its gradient.
template <class X>
cpu::Rows<X> out_rows(const at::Tensor& out, const Piece& piece, const HeadShape& shape) {
  return rows_at<X>(out, piece.first_token, piece.kv_head * (shape.heads / shape.kv_heads) * shape.head_dim);
}

template <class F>
cpu::LogSums<F> log_sums(const at::Tensor& lse_HN, const Piece& piece, const HeadShape& shape) {
  const std::int64_t first_head = piece.kv_head * (shape.heads / shape.kv_heads);
  return {lse_HN.data_ptr<float>() + piece.first_token * lse_HN.stride(1) + first_head * lse_HN.stride(0), lse_HN.stride(1),
          lse_HN.stride(0)};
}

void forward_cpu(const at::Tensor& qkv_NC, const HeadShape& shape, const Documents& documents, const at::Tensor& out,
                 const at::Tensor& log_sum_exp_HN) {
  const std::vector<Piece> pieces = pieces_of(documents, shape);
  dispatch_cpu(qkv_NC.scalar_type(), [&](const auto& kernels, auto type) {
    using X = decltype(type);
    for_each_piece(pieces, shape, kernels.attention_scratch, false, [&](const Piece& piece, void* scratch) {
      kernels.attention(packed_rows<const X>(qkv_NC, piece, shape), out_rows<X>(out, piece, shape),
                        log_sums<float>(log_sum_exp_HN, piece, shape), kernel_shape(piece, shape), scratch);
    });
  });
}

void backward_cpu(const at::Tensor& qkv_NC, const HeadShape& shape, const Documents& documents, const at::Tensor& out,
                  const at::Tensor& d_out, const at::Tensor& log_sum_exp_HN, const at::Tensor& d_qkv_NC) {
  const std::vector<Piece> pieces = pieces_of(documents, shape);
  dispatch_cpu(qkv_NC.scalar_type(), [&](const auto& kernels, auto type) {
    using X = decltype(type);
    for_each_piece(pieces, shape, kernels.attention_scratch, true, [&](const Piece& piece, void* scratch) {
      kernels.attention_backward(packed_rows<const X>(qkv_NC, piece, shape), out_rows<const X>(out, piece, shape),
                                 out_rows<const X>(d_out, piece, shape), log_sums<const float>(log_sum_exp_HN, piece, shape),
                                 packed_rows<X>(d_qkv_NC, piece, shape), kernel_shape(piece, shape), scratch);
    });
  });
}

}  // namespace

const AttentionPasses kAttentionPassesCpu{check_columns, with_dense_rows, forward_cpu, backward_cpu};

}  // namespace meristem::ops
