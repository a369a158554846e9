#include "ops/attention.h"

#include <algorithm>
#include <cmath>

#include <torch/custom_class.h>
#include <torch/torch.h>

#include "ops/attention_passes.h"
#include "ops/launch.h"

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

// Bool [T, S]: which of S keys each of T queries sees, the last query the last key.
at::Tensor seen_keys(const at::Tensor& q, const at::Tensor& k, std::int64_t window) {
  const std::int64_t before = k.size(2) - q.size(2);
  const at::Tensor seen = at::ones({q.size(2), k.size(2)}, q.options().dtype(at::kBool)).tril(before);
  return window == 0 ? seen : seen.triu(before - window + 1);
}

at::Tensor softmax_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, std::int64_t window, double score_cap) {
  const auto wide = accumulate_type(q.scalar_type());
  at::Tensor scores = at::matmul(q.to(wide), k.to(wide).transpose(2, 3)) / std::sqrt(static_cast<double>(q.size(3)));
  if (score_cap > 0) scores = (scores / score_cap).tanh() * score_cap;
  scores = scores.masked_fill(seen_keys(q, k, window).logical_not(), -std::numeric_limits<double>::infinity());
  return at::matmul(scores.softmax(-1), v.to(wide)).to(q.scalar_type());
}

// Some queries at a time with the keys that they see, so that work and masks follow the window and not the text.
at::Tensor attend_in_window(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, std::int64_t window) {
  constexpr std::int64_t kFewest = 128;  // of fewer queries a call costs more than the keys it spares
  const std::int64_t queries = q.size(2), before = k.size(2) - queries, step = std::max(window, kFewest);
  std::vector<at::Tensor> out;
  for (std::int64_t begin = 0; begin < queries; begin += step) {
    const std::int64_t count = std::min(step, queries - begin), end_key = before + begin + count,
                       first_key = std::max<std::int64_t>(0, before + begin - window + 1);
    const at::Tensor some_q = q.narrow(2, begin, count), some_k = k.narrow(2, first_key, end_key - first_key),
                     some_v = v.narrow(2, first_key, end_key - first_key);
    out.push_back(at::scaled_dot_product_attention(some_q, some_k, some_v, seen_keys(some_q, some_k, window), 0.0, false));
  }
  return out.size() == 1 ? out[0] : at::cat(out, 2);
}

at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const HeadShape& shape, Path path) {
  const std::int64_t queries = q.size(2), keys = k.size(2), window = shape.window;
  if (path == Path::kReference) return softmax_attention(q, k, v, window, shape.score_cap);
  if (window > 0 && keys > window) return attend_in_window(q, k, v, window);
  if (queries == keys) return at::scaled_dot_product_attention(q, k, v, {}, 0.0, /*is_causal=*/true);
  if (queries == 1) return at::scaled_dot_product_attention(q, k, v, {}, 0.0, /*is_causal=*/false);
  return at::scaled_dot_product_attention(q, k, v, seen_keys(q, k, 0), 0.0, false);
}

// `sequences` sequences of equal length.
at::Tensor attend_block(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const HeadShape& shape, std::int64_t sequences,
                        Path path) {
  const at::Tensor out = attend(as_heads(q, sequences, shape.heads, shape.head_dim),
                                repeat_heads(as_heads(k, sequences, shape.kv_heads, shape.head_dim), shape.heads),
                                repeat_heads(as_heads(v, sequences, shape.kv_heads, shape.head_dim), shape.heads), shape, path);
  return out.transpose(1, 2).reshape({-1, shape.query_columns()});
}

at::Tensor offsets_of(const std::vector<std::int64_t>& lengths, at::Device device) { return Documents{lengths}.on(device).offsets; }

// Rows of the documents' texts, each behind its beginnings, and their lengths. Forward alone: the index is made on the host.
std::pair<at::Tensor, std::vector<std::int64_t>> rows_with_beginnings(const Documents& documents) {
  std::vector<std::int64_t> starts{0}, rows, lengths;
  for (const std::int64_t length : documents.lengths) starts.push_back(starts.back() + length);
  const auto append = [&](std::size_t d) {
    for (std::int64_t i = starts[d]; i < starts[d + 1]; ++i) rows.push_back(i);
  };
  for (std::size_t d = 0; d < documents.lengths.size(); ++d) {
    const std::size_t before = rows.size();
    for (const std::size_t b : documents.before(d)) append(b);
    append(d);
    lengths.push_back(static_cast<std::int64_t>(rows.size() - before));
  }
  return {at::tensor(rows, at::kLong), lengths};
}

std::int64_t longest_of(const std::vector<std::int64_t>& lengths) { return *std::max_element(lengths.begin(), lengths.end()); }

// cuDNN, which LibTorch prefers on Hopper, is the fastest there, for shapes that it has planned for.
bool cudnn_is_faster(const Documents& documents, const HeadShape& shape) {
  return documents.whole_rows && shape.window == 0 && kernels::compute_capability() >= 90;
}

// A call as the autograd function keeps it.
struct AttentionCall : torch::CustomClassHolder {
  const AttentionPasses* passes = nullptr;
  HeadShape shape{};
  Documents documents;
};

class FusedAttention : public torch::autograd::Function<FusedAttention> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& qkv_NC,
                            const c10::intrusive_ptr<AttentionCall>& call) {
    RECORD_FUNCTION("meristem::attention", {});
    const HeadShape& shape = call->shape;
    const at::Tensor qkv = call->passes->rows(qkv_NC), out = at::empty({qkv.size(0), shape.query_columns()}, qkv.options()),
                     log_sum_exp = at::empty({shape.heads, qkv.size(0)}, qkv.options().dtype(at::kFloat));
    call->passes->forward(qkv, shape, call->documents, out, log_sum_exp);
    context->save_for_backward({qkv, out, log_sum_exp});
    context->saved_data["call"] = c10::IValue::make_capsule(call);
    return out;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list grads) {
    const auto holder = context->saved_data["call"].toCapsule();
    const auto& call = static_cast<const AttentionCall&>(*holder);
    const auto saved = context->get_saved_variables();
    const at::Tensor d_qkv = at::empty({saved[0].size(0), call.shape.columns()}, saved[0].options());
    call.passes->backward(saved[0], call.shape, call.documents, saved[1], call.passes->rows(grads[0]), saved[2], d_qkv);
    return {d_qkv, {}};
  }
};

}  // namespace

at::Tensor fused_attention(const AttentionPasses& passes, const at::Tensor& qkv_NC, const HeadShape& shape, const Documents& documents) {
  passes.check(qkv_NC, shape);
  const at::Tensor& offsets = documents.offsets;
  TORCH_CHECK(offsets.defined(), "attention: the batch brought no offsets of its documents");
  TORCH_CHECK(offsets.scalar_type() == at::kInt && offsets.dim() == 1 && offsets.is_contiguous() && offsets.device() == qkv_NC.device(),
              "attention: offsets are ", offsets.sizes(), " of ", offsets.scalar_type(), ", expected int32 on ", qkv_NC.device());
  const auto call = c10::make_intrusive<AttentionCall>();
  call->passes = &passes;
  call->shape = shape;
  call->documents = documents;
  return FusedAttention::apply(qkv_NC, call);
}

bool flash_takes(at::ScalarType type, const HeadShape& shape) {
  return (type == at::kBFloat16 || type == at::kHalf) && shape.head_dim % 8 == 0 && shape.head_dim <= 256 && shape.score_cap == 0;
}

FlashResult flash_of_library(const FlashCall& call) {
  const auto found =
      at::_flash_attention_forward(call.q_NHK, call.k_MGK, call.v_MGK, call.q_offsets, call.k_offsets, call.longest_q, call.longest_k,
                                   /*dropout_p=*/0.0, /*is_causal=*/true, /*return_debug_mask=*/false, std::optional<double>(), call.window,
                                   call.window ? std::optional<std::int64_t>(0) : std::nullopt);
  return {std::get<0>(found), std::get<1>(found)};
}

at::Tensor flash_attention(Flash flash, const at::Tensor& qkv_NC, const HeadShape& shape, const Documents& documents) {
  const auto parts = qkv_NC.split_with_sizes({shape.query_columns(), shape.kv_columns(), shape.kv_columns()}, 1);
  const auto heads = [&](const at::Tensor& x, std::int64_t count) { return x.unflatten(1, {count, shape.head_dim}); };
  FlashCall call;
  call.q_NHK = heads(parts[0], shape.heads);
  call.k_MGK = heads(parts[1], shape.kv_heads);
  call.v_MGK = heads(parts[2], shape.kv_heads);
  call.q_offsets = call.k_offsets = documents.on(qkv_NC.device()).offsets;
  call.longest_q = call.longest_k = documents.longest > 0 ? documents.longest : longest_of(documents.lengths);
  if (!documents.beginnings.empty()) {
    const auto [rows, lengths] = rows_with_beginnings(documents);
    const at::Tensor there = rows.to(qkv_NC.device());
    call.k_MGK = call.k_MGK.index_select(0, there);
    call.v_MGK = call.v_MGK.index_select(0, there);
    call.k_offsets = offsets_of(lengths, qkv_NC.device());
    call.longest_k = longest_of(lengths);
  }
  if (shape.window > 0 && shape.window < call.longest_k) call.window = shape.window - 1;
  return flash(call).out_NHK.flatten(1);
}

at::Tensor flash_cached_attention(Flash flash, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const HeadShape& shape) {
  const auto heads = [&](const at::Tensor& x, std::int64_t count) { return x.unflatten(1, {count, shape.head_dim}); };
  FlashCall call{heads(q, shape.heads),
                 heads(k, shape.kv_heads),
                 heads(v, shape.kv_heads),
                 offsets_of({q.size(0)}, q.device()),
                 offsets_of({k.size(0)}, q.device()),
                 q.size(0),
                 k.size(0),
                 {}};
  if (shape.window > 0 && shape.window < k.size(0)) call.window = shape.window - 1;
  return flash(call).out_NHK.flatten(1);
}

Documents Documents::on(at::Device device) const {
  if (offsets.defined()) return *this;
  const at::Tensor made = at::zeros({static_cast<std::int64_t>(lengths.size()) + 1}, at::kInt);
  auto* starts = made.data_ptr<std::int32_t>();
  for (std::size_t i = 0; i < lengths.size(); ++i) starts[i + 1] = starts[i] + static_cast<std::int32_t>(lengths[i]);
  Documents there = *this;
  there.offsets = made.to(device);
  return there;
}

Documents Documents::read_at(const at::Tensor& rows) const {
  Documents marked = *this;
  marked.unread.clear();
  if (!rows.is_cpu()) return marked;  // the host would wait, and no kernel there asks
  const auto* next = rows.data_ptr<std::int64_t>();
  const auto* const last = next + rows.numel();
  std::int64_t end = 0;
  for (const std::int64_t length : lengths) {
    end += length;
    marked.unread.push_back(next == last || *next >= end ? 1 : 0);
    while (next != last && *next < end) ++next;
  }
  return marked;
}

at::Tensor causal_attention(const at::Tensor& qkv_NC, const HeadShape& shape, const Documents& documents, Path path) {
  TORCH_CHECK(qkv_NC.dim() == 2 && qkv_NC.size(1) == shape.columns(), "attention: qkv is ", qkv_NC.sizes(), ", expected [N, ",
              shape.columns(), "]");
  TORCH_CHECK(shape.score_cap == 0 || path == Path::kReference, "attention: the reference alone caps scores");
  TORCH_CHECK(documents.beginnings.empty() || !at::GradMode::is_enabled(), "attention: shared beginnings are for forward passes alone");
  if (path == Path::kFused && qkv_NC.is_cpu()) return fused_attention(kAttentionPassesCpu, qkv_NC, shape, documents);
  if (path == Path::kFused && documents.beginnings.empty()) return fused_attention(kAttentionPassesCuda, qkv_NC, shape, documents);
  if (path != Path::kReference && qkv_NC.is_cuda() && flash_takes(qkv_NC.scalar_type(), shape) && !cudnn_is_faster(documents, shape)) {
    return flash_attention(flash_of_library, qkv_NC, shape, documents);
  }
  const auto parts = qkv_NC.split_with_sizes({shape.query_columns(), shape.kv_columns(), shape.kv_columns()}, 1);
  if (documents.is_uniform() && documents.beginnings.empty()) {
    return attend_block(parts[0], parts[1], parts[2], shape, static_cast<std::int64_t>(documents.lengths.size()), path);
  }
  // One call a document: no T x T mask is built, and the work is that of the documents alone.
  const auto q = parts[0].split_with_sizes(documents.lengths), k = parts[1].split_with_sizes(documents.lengths),
             v = parts[2].split_with_sizes(documents.lengths);
  std::vector<at::Tensor> out;
  out.reserve(q.size());
  for (std::size_t i = 0; i < q.size(); ++i) {
    const auto before = documents.before(i);
    const auto seen = [&](const std::vector<at::Tensor>& x) {
      std::vector<at::Tensor> rows;
      for (const std::size_t b : before) rows.push_back(x[b]);
      rows.push_back(x[i]);
      return at::cat(rows);
    };
    out.push_back(attend_block(q[i], seen(k), seen(v), shape, 1, path));
  }
  return at::cat(out);
}

at::Tensor cached_attention(const at::Tensor& q_NC, const std::vector<KeptRows>& kept, const HeadShape& shape, const Documents& documents,
                            Path path) {
  if (path == Path::kFused && q_NC.is_cpu()) {
    const at::Tensor out = at::empty({q_NC.size(0), shape.query_columns()}, q_NC.options());
    cached_attention_cpu(q_NC, kept, shape, documents, out);
    return out;
  }
  // The library's keys grow by one a token: never a plan for each.
  const bool flash = path != Path::kReference && q_NC.is_cuda() && flash_takes(q_NC.scalar_type(), shape);
  std::vector<at::Tensor> out;
  const auto q = q_NC.split_with_sizes(documents.lengths);
  for (std::size_t d = 0; d < q.size(); ++d) {
    out.push_back(flash ? flash_cached_attention(flash_of_library, q[d], kept[d].keys, kept[d].values, shape)
                        : attend_block(q[d], kept[d].keys, kept[d].values, shape, 1, path));
  }
  return out.size() == 1 ? out[0] : at::cat(out);
}

}  // namespace meristem::ops
