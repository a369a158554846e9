#include <algorithm>
#include <cmath>
#include <limits>
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

struct Span {
  std::int64_t first_token, tokens;
};
// Tokens of one document under one key head: what no other piece of work touches. before: what stands before them.
struct Piece {
  Span own;
  std::int64_t kv_head;
  std::vector<Span> before = {};
  std::int64_t prior() const {
    std::int64_t tokens = 0;
    for (const Span& span : before) tokens += span.tokens;
    return tokens;
  }
  std::int64_t work() const { return own.tokens * (prior() + own.tokens / 2); }
};

// Of what is read, the dearest first. most: tokens of a piece, about; a document of more is cut, so that threads share it out.
std::vector<Piece> pieces_of(const Documents& documents, const HeadShape& shape, std::int64_t most) {
  const auto* starts = documents.offsets.data_ptr<std::int32_t>();
  std::vector<Piece> pieces;
  for (std::int64_t d = 0; d + 1 < documents.offsets.size(0); ++d) {
    const auto span = [starts](auto i) { return Span{starts[i], starts[i + 1] - starts[i]}; };
    const auto index = static_cast<std::size_t>(d);
    const Span own = span(d);
    if (own.tokens == 0 || (!documents.unread.empty() && documents.unread[index] != 0)) continue;
    std::vector<Span> before;
    for (const std::size_t b : documents.before(index)) before.push_back(span(b));
    for (std::int64_t begin = 0; begin < own.tokens;) {
      const std::int64_t left = own.tokens - begin, tokens = left < 2 * most ? left : most;
      std::vector<Span> seen = before;
      if (begin > 0) seen.push_back({own.first_token, begin});
      for (std::int64_t g = 0; g < shape.kv_heads; ++g) pieces.push_back({{own.first_token + begin, tokens}, g, seen});
      begin += tokens;
    }
  }
  std::stable_sort(pieces.begin(), pieces.end(), [](const Piece& a, const Piece& b) { return a.work() > b.work(); });
  return pieces;
}

cpu::AttentionShape kernel_shape(const Piece& piece, const HeadShape& shape) {
  return {piece.own.tokens,
          shape.heads / shape.kv_heads,
          shape.head_dim,
          shape.window,
          static_cast<float>(1 / std::sqrt(static_cast<double>(shape.head_dim))),
          piece.prior()};
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
  const std::int64_t first = piece.own.first_token, dim = shape.head_dim, group = shape.heads / shape.kv_heads,
                     keys = shape.query_columns(), values = keys + shape.kv_columns();
  return {rows_at<X>(qkv_NC, first, piece.kv_head * group * dim), rows_at<X>(qkv_NC, first, keys + piece.kv_head * dim),
          rows_at<X>(qkv_NC, first, values + piece.kv_head * dim)};
}

// Keys and values of what stands before it.
template <class X>
std::vector<cpu::PriorRows<X>> prior_rows(const at::Tensor& qkv_NC, const Piece& piece, const HeadShape& shape) {
  const std::int64_t keys = shape.query_columns() + piece.kv_head * shape.head_dim, values = keys + shape.kv_columns();
  std::vector<cpu::PriorRows<X>> rows;
  for (const Span& span : piece.before)
    rows.push_back({rows_at<X>(qkv_NC, span.first_token, keys), rows_at<X>(qkv_NC, span.first_token, values), span.tokens});
  return rows;
}

// A piece's columns of the result, or of its gradient.
template <class X>
cpu::Rows<X> out_rows(const at::Tensor& out, const Piece& piece, const HeadShape& shape) {
  return rows_at<X>(out, piece.own.first_token, piece.kv_head * (shape.heads / shape.kv_heads) * shape.head_dim);
}

template <class F>
cpu::LogSums<F> log_sums(const at::Tensor& lse_HN, const Piece& piece, const HeadShape& shape) {
  const std::int64_t first_head = piece.kv_head * (shape.heads / shape.kv_heads);
  return {lse_HN.data_ptr<float>() + piece.own.first_token * lse_HN.stride(1) + first_head * lse_HN.stride(0), lse_HN.stride(1),
          lse_HN.stride(0)};
}

void forward_cpu(const at::Tensor& qkv_NC, const HeadShape& shape, const Documents& documents, const at::Tensor& out,
                 const at::Tensor& log_sum_exp_HN) {
  constexpr std::int64_t kMost = 256;  // of fewer tokens reading keys and values anew costs more than threads gain
  const std::vector<Piece> pieces = pieces_of(documents, shape, kMost);
  dispatch_cpu(qkv_NC.scalar_type(), [&](const auto& kernels, auto type) {
    using X = decltype(type);
    for_each_piece(pieces, shape, kernels.attention_scratch, false, [&](const Piece& piece, void* scratch) {
      const auto prior = prior_rows<const X>(qkv_NC, piece, shape);
      auto rows = packed_rows<const X>(qkv_NC, piece, shape);
      rows.prior = prior.data(), rows.priors = static_cast<std::int64_t>(prior.size());
      kernels.attention(rows, out_rows<X>(out, piece, shape), log_sums<float>(log_sum_exp_HN, piece, shape), kernel_shape(piece, shape),
                        scratch);
    });
  });
}

void backward_cpu(const at::Tensor& qkv_NC, const HeadShape& shape, const Documents& documents, const at::Tensor& out,
                  const at::Tensor& d_out, const at::Tensor& log_sum_exp_HN, const at::Tensor& d_qkv_NC) {
  const std::vector<Piece> pieces = pieces_of(documents, shape, std::numeric_limits<std::int32_t>::max());
  dispatch_cpu(qkv_NC.scalar_type(), [&](const auto& kernels, auto type) {
    using X = decltype(type);
    for_each_piece(pieces, shape, kernels.attention_scratch, true, [&](const Piece& piece, void* scratch) {
      kernels.attention_backward(packed_rows<const X>(qkv_NC, piece, shape), out_rows<const X>(out, piece, shape),
                                 out_rows<const X>(d_out, piece, shape), log_sums<const float>(log_sum_exp_HN, piece, shape),
                                 packed_rows<X>(d_qkv_NC, piece, shape), kernel_shape(piece, shape), scratch);
    });
  });
}

// One document's new tokens under one key head.
struct CachedPiece {
  std::int64_t first_token, tokens, kv_head;
  const KeptRows* kept;
};

template <class X>
void attend_cached(const cpu::TypedKernels<X>& kernels, const CachedPiece& piece, const at::Tensor& q_NC, const HeadShape& shape,
                   const at::Tensor& out, float* lse) {
  const std::int64_t rows = piece.kept->keys.size(0), dim = shape.head_dim, group = shape.heads / shape.kv_heads,
                     column = piece.kv_head * dim;
  const cpu::Rows<const X> q = rows_at<const X>(q_NC, piece.first_token, column * group);
  const cpu::Rows<X> to = rows_at<X>(out, piece.first_token, column * group);
  cpu::AttentionShape sizes{piece.tokens, group, dim, shape.window, static_cast<float>(1 / std::sqrt(static_cast<double>(dim)))};
  const auto from = [&](std::int64_t row) {
    return cpu::PriorRows<const X>{rows_at<const X>(piece.kept->keys, row, column), rows_at<const X>(piece.kept->values, row, column), 0};
  };
  if (piece.tokens == 1) {
    const std::int64_t first = shape.window == 0 ? 0 : std::max<std::int64_t>(0, rows - shape.window);
    kernels.attention_row(q.data, from(first).k, from(first).v, rows - first, to.data, sizes,
                          thread_scratch(cpu::attention_row_scratch(sizes, rows)));
    return;
  }
  sizes.prior = rows - piece.tokens;
  cpu::PriorRows<const X> prior = from(0), own = from(sizes.prior);
  prior.tokens = sizes.prior;
  const cpu::AttentionRows<const X> in{q, own.k, own.v, &prior, sizes.prior > 0 ? 1 : 0};
  kernels.attention(in, to, {lse + piece.kv_head * group * q_NC.size(0) + piece.first_token, 1, q_NC.size(0)}, sizes,
                    thread_scratch(kernels.attention_scratch(sizes, false)));
}

}  // namespace

std::int64_t attention_workspace(const HeadShape& shape, std::int64_t tokens, at::ScalarType compute) {
  std::int64_t bytes = 0;
  dispatch_cpu(compute, [&](const auto& kernels, auto) {
    bytes = kernels.attention_scratch({tokens, shape.heads / shape.kv_heads, shape.head_dim, shape.window, 1}, /*backward=*/true);
  });
  return bytes;
}

void cached_attention_cpu(const at::Tensor& q_NC, const std::vector<KeptRows>& kept, const HeadShape& shape, const Documents& documents,
                          const at::Tensor& out) {
  RECORD_FUNCTION("meristem::cached_attention", {});
  constexpr std::int64_t kAlone = 1 << 14;  // products; with fewer, waking a thread costs more
  std::vector<CachedPiece> pieces;
  std::int64_t token = 0, work = 0;
  for (std::size_t d = 0; d < kept.size(); token += documents.lengths[d++]) {
    work += documents.lengths[d] * kept[d].keys.size(0) * shape.query_columns();
    for (std::int64_t g = 0; g < shape.kv_heads; ++g) pieces.push_back({token, documents.lengths[d], g, &kept[d]});
  }
  const bool some_long = token > static_cast<std::int64_t>(kept.size());
  const at::Tensor lse = some_long ? at::empty({shape.heads, token}, q_NC.options().dtype(at::kFloat)) : at::Tensor();
  dispatch_cpu(q_NC.scalar_type(), [&](const auto& kernels, auto type) {
    using X = decltype(type);
    const auto attend = [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i)
        attend_cached<X>(kernels, pieces[static_cast<std::size_t>(i)], q_NC, shape, out, static_cast<float*>(data_or_null(lse)));
    };
    if (work < kAlone) {
      attend(0, std::ssize(pieces));
    } else {
      parallel_rows(std::ssize(pieces), attend);
    }
  });
}

const AttentionPasses kAttentionPassesCpu{check_columns, with_dense_rows, forward_cpu, backward_cpu};

}  // namespace meristem::ops
