#include "ops/attention.h"

#include <cmath>

#include <torch/torch.h>

#include "ops/fused_attention.h"
#include "ops/typed_cpu.h"

namespace meristem::ops {
namespace {

// [S*T, heads*K] -> [S, heads, T, K] without a copy.
at::Tensor as_heads(const at::Tensor& x, std::int64_t sequences, std::int64_t heads, std::int64_t head_dim) {
  return x.view({sequences, -1, heads, head_dim}).transpose(1, 2);
}

// [S, G, T, K] -> [S, H, T, K]: query head h reads key head h / (H/G).
at::Tensor repeat_heads(const at::Tensor& x, std::int64_t heads) {
  const std::int64_t group = heads / x.size(1);
  if (group == 1) return x;
  return x.unsqueeze(2).expand({x.size(0), x.size(1), group, x.size(2), x.size(3)}).reshape({x.size(0), heads, x.size(2), x.size(3)});
}

at::Tensor softmax_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  const auto wide = accumulate_type(q.scalar_type());
  const std::int64_t queries = q.size(2), keys = k.size(2);
  at::Tensor scores = at::matmul(q.to(wide), k.to(wide).transpose(2, 3)) / std::sqrt(static_cast<double>(q.size(3)));
  const at::Tensor hidden = at::ones({queries, keys}, q.options().dtype(at::kBool)).triu(keys - queries + 1);
  scores = scores.masked_fill(hidden, -std::numeric_limits<double>::infinity());
  return at::matmul(scores.softmax(-1), v.to(wide)).to(q.scalar_type());
}

at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, Path path) {
  if (path == Path::kReference) return softmax_attention(q, k, v);
  const std::int64_t queries = q.size(2), keys = k.size(2);
  if (queries == keys) return at::scaled_dot_product_attention(q, k, v, {}, 0.0, /*is_causal=*/true);
  if (queries == 1) return at::scaled_dot_product_attention(q, k, v, {}, 0.0, /*is_causal=*/false);
  const at::Tensor seen = at::ones({queries, keys}, q.options().dtype(at::kBool)).tril(keys - queries);
  return at::scaled_dot_product_attention(q, k, v, seen, 0.0, false);
}

// `sequences` sequences of equal length.
at::Tensor attend_block(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const HeadShape& shape, std::int64_t sequences,
                        Path path) {
  const at::Tensor out = attend(as_heads(q, sequences, shape.heads, shape.head_dim),
                                repeat_heads(as_heads(k, sequences, shape.kv_heads, shape.head_dim), shape.heads),
                                repeat_heads(as_heads(v, sequences, shape.kv_heads, shape.head_dim), shape.heads), path);
  return out.transpose(1, 2).reshape({-1, shape.query_columns()});
}

}  // namespace

at::Tensor causal_attention(const at::Tensor& qkv_NC, const HeadShape& shape, const Documents& documents, Path path) {
  TORCH_CHECK(qkv_NC.dim() == 2 && qkv_NC.size(1) == shape.columns(), "attention: qkv is ", qkv_NC.sizes(), ", expected [N, ",
              shape.columns(), "]");
  if (path == Path::kFused) return fused_attention(qkv_NC, shape, documents);
  const auto parts = qkv_NC.split_with_sizes({shape.query_columns(), shape.kv_columns(), shape.kv_columns()}, 1);
  if (documents.is_uniform()) {
    return attend_block(parts[0], parts[1], parts[2], shape, static_cast<std::int64_t>(documents.lengths.size()), path);
  }
  // One call a document: no T x T mask is built, and the work is that of the documents alone.
  const auto q = parts[0].split_with_sizes(documents.lengths), k = parts[1].split_with_sizes(documents.lengths),
             v = parts[2].split_with_sizes(documents.lengths);
  std::vector<at::Tensor> out;
  out.reserve(q.size());
  for (std::size_t i = 0; i < q.size(); ++i) out.push_back(attend_block(q[i], k[i], v[i], shape, 1, path));
  return at::cat(out);
}

at::Tensor cached_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const HeadShape& shape, Path path) {
  return attend_block(q, k, v, shape, 1, path);
}

}  // namespace meristem::ops
