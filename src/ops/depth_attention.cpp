#include "ops/depth_attention.h"

#include <cmath>

#include <torch/torch.h>

#include "ops/depth_attention_cpu.h"
#include "ops/fused_attention.h"
#include "ops/fused_depth_attention.h"
#include "ops/typed_cpu.h"

namespace meristem::ops {
namespace {

using Entries = std::vector<at::Tensor>;

// M x [N, G*K] -> [N, G, M, K] in the type of reductions.
at::Tensor stacked_entries(const Entries& entries, const HeadShape& shape) {
  const at::Tensor all = at::stack(entries, 1);
  const at::Tensor by_head = all.view({all.size(0), all.size(1), shape.kv_heads, shape.head_dim}).transpose(1, 2);
  return by_head.to(accumulate_type(all.scalar_type()));
}

// [N, H*K] -> [N, G, H/G, K]: query head h reads key head h / (H/G).
at::Tensor grouped_queries(const at::Tensor& q, const HeadShape& shape) {
  return q.to(accumulate_type(q.scalar_type())).reshape({q.size(0), shape.kv_heads, shape.heads / shape.kv_heads, shape.head_dim});
}

// [N, H, M]
at::Tensor depth_scores(const at::Tensor& q, const Entries& keys, const HeadShape& shape) {
  const at::Tensor scores = at::matmul(grouped_queries(q, shape), stacked_entries(keys, shape).transpose(2, 3));
  return scores.reshape({q.size(0), shape.heads, -1}) / std::sqrt(static_cast<double>(shape.head_dim));
}

// weights: [N, H, M] -> [N, H*K]
at::Tensor weighted_values(const at::Tensor& weights, const Entries& values, const HeadShape& shape) {
  const at::Tensor grouped = weights.reshape({weights.size(0), shape.kv_heads, shape.heads / shape.kv_heads, -1});
  return at::matmul(grouped, stacked_entries(values, shape)).reshape({weights.size(0), shape.query_columns()});
}

void check_entries(const at::Tensor& q, const Entries& keys, const Entries& values, const HeadShape& shape) {
  TORCH_CHECK(keys.size() == values.size(), "depth attention: ", keys.size(), " keys, ", values.size(), " values");
  for (const Entries* entries : {&keys, &values}) {
    for (const at::Tensor& entry : *entries) {
      TORCH_CHECK(entry.dim() == 2 && entry.size(0) == q.size(0) && entry.size(1) == shape.kv_columns(), "depth attention: an entry is ",
                  entry.sizes(), ", expected [", q.size(0), ", ", shape.kv_columns(), "]");
    }
  }
}

Entries narrowed(const Entries& entries, std::int64_t begin, std::int64_t length) {
  Entries out;
  for (const at::Tensor& entry : entries) out.push_back(entry.narrow(0, begin, length));
  return out;
}

// One sequence: t queries, S >= t keys, query i up to key S - t + i, and the queries' own entries, all scores written out.
at::Tensor joint_softmax(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Entries& keys, const Entries& values,
                         const HeadShape& shape) {
  const auto wide = accumulate_type(q.scalar_type());
  const std::int64_t queries = q.size(0), seen = k.size(0), group = shape.heads / shape.kv_heads;
  const auto heads_first = [&](const at::Tensor& x, std::int64_t heads) {
    return x.to(wide).view({x.size(0), heads, shape.head_dim}).transpose(0, 1);
  };
  at::Tensor scores = at::matmul(heads_first(q, shape.heads), heads_first(k, shape.kv_heads).repeat_interleave(group, 0).transpose(1, 2)) /
                      std::sqrt(static_cast<double>(shape.head_dim));  // [H, t, S]
  const at::Tensor hidden = at::ones({queries, seen}, q.options().dtype(at::kBool)).triu(seen - queries + 1);
  scores = scores.masked_fill(hidden, -std::numeric_limits<double>::infinity());
  if (!keys.empty()) scores = at::cat({scores, depth_scores(q, keys, shape).transpose(0, 1)}, 2);
  const at::Tensor weights = scores.softmax(-1);
  at::Tensor out = at::matmul(weights.narrow(2, 0, seen), heads_first(v, shape.kv_heads).repeat_interleave(group, 0));  // [H, t, K]
  out = out.transpose(0, 1).reshape({queries, shape.query_columns()});
  if (!keys.empty()) {
    const at::Tensor over_depth = weights.narrow(2, seen, static_cast<std::int64_t>(keys.size())).transpose(0, 1);
    out = out + weighted_values(over_depth, values, shape);
  }
  return out.to(q.scalar_type());
}

}  // namespace

at::Tensor depth_attention(const at::Tensor& q, const Entries& keys, const Entries& values, const HeadShape& shape, Path path,
                           const SharedEntries& shared) {
  TORCH_CHECK(!keys.empty() && q.dim() == 2 && q.size(1) == shape.query_columns(), "depth attention: q is ", q.sizes(), ", expected [N, ",
              shape.query_columns(), "], over at least one entry");
  check_entries(q, keys, values, shape);
  if (path == Path::kFused) {
    return q.is_cpu() ? depth_attention_cpu(q, keys, values, shape, shared) : fused_depth_attention(q, keys, values, shape, shared);
  }
  return weighted_values(depth_scores(q, keys, shape).softmax(-1), values, shape).to(q.scalar_type());
}

at::Tensor joint_attention(const at::Tensor& qkv_NC, const Entries& keys, const Entries& values, const HeadShape& shape,
                           const Documents& documents, Path path, const SharedEntries& shared) {
  const auto parts = qkv_NC.split_with_sizes({shape.query_columns(), shape.kv_columns(), shape.kv_columns()}, 1);
  check_entries(parts[0], keys, values, shape);
  if (path == Path::kFused) {
    if (qkv_NC.is_cpu()) return joint_attention_cpu(qkv_NC, keys, values, shape, documents, shared);
    return fused_joint_attention(qkv_NC, keys, values, shape, documents, shared);
  }
  std::vector<at::Tensor> out;
  std::int64_t begin = 0;
  for (const std::int64_t length : documents.lengths) {
    const auto part = [&](int i) { return parts[static_cast<std::size_t>(i)].narrow(0, begin, length); };
    out.push_back(joint_softmax(part(0), part(1), part(2), narrowed(keys, begin, length), narrowed(values, begin, length), shape));
    begin += length;
  }
  return at::cat(out);
}

at::Tensor cached_joint_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Entries& keys, const Entries& values,
                                  const HeadShape& shape, Path) {
  check_entries(q, keys, values, shape);
  return joint_softmax(q, k, v, keys, values, shape);
}

}  // namespace meristem::ops
