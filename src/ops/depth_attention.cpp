#include "ops/depth_attention.h"

#include <algorithm>
#include <cmath>

#include <torch/torch.h>

#include "ops/depth_attention_passes.h"
#include "ops/launch.h"

namespace meristem::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
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

// [S, heads*K] -> [heads, S, K] in the type of reductions.
at::Tensor heads_first(const at::Tensor& x, std::int64_t heads, const HeadShape& shape) {
  return x.to(accumulate_type(x.scalar_type())).view({x.size(0), heads, shape.head_dim}).transpose(0, 1);
}

// One sequence: t queries, S >= t keys, query i up to key S - t + i, and the queries' own entries, all scores written out: [H, t, S + M].
at::Tensor joint_weights(const at::Tensor& q, const at::Tensor& k, const Entries& keys, const HeadShape& shape) {
  const std::int64_t queries = q.size(0), seen = k.size(0), group = shape.heads / shape.kv_heads;
  at::Tensor scores =
      at::matmul(heads_first(q, shape.heads, shape), heads_first(k, shape.kv_heads, shape).repeat_interleave(group, 0).transpose(1, 2)) /
      std::sqrt(static_cast<double>(shape.head_dim));  // [H, t, S]
  const at::Tensor hidden = at::ones({queries, seen}, q.options().dtype(at::kBool)).triu(seen - queries + 1);
  scores = scores.masked_fill(hidden, -std::numeric_limits<double>::infinity());
  if (!keys.empty()) scores = at::cat({scores, depth_scores(q, keys, shape).transpose(0, 1)}, 2);
  return scores.softmax(-1);
}

at::Tensor joint_softmax(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Entries& keys, const Entries& values,
                         const HeadShape& shape) {
  const std::int64_t queries = q.size(0), seen = k.size(0), group = shape.heads / shape.kv_heads;
  const at::Tensor weights = joint_weights(q, k, keys, shape);
  at::Tensor out = at::matmul(weights.narrow(2, 0, seen), heads_first(v, shape.kv_heads, shape).repeat_interleave(group, 0));  // [H, t, K]
  out = out.transpose(0, 1).reshape({queries, shape.query_columns()});
  if (!keys.empty()) {
    const at::Tensor over_depth = weights.narrow(2, seen, static_cast<std::int64_t>(keys.size())).transpose(0, 1);
    out = out + weighted_values(over_depth, values, shape);
  }
  return out.to(q.scalar_type());
}

// What one document attends with: its own queries, and keys and values of what it begins with, too.
struct OwnPart {
  std::int64_t begin = 0, length = 0;  // rows
  at::Tensor q, k, v;
};

std::vector<OwnPart> parts_of_documents(const at::Tensor& qkv_NC, const HeadShape& shape, const Documents& documents) {
  const auto parts = qkv_NC.split_with_sizes({shape.query_columns(), shape.kv_columns(), shape.kv_columns()}, 1);
  std::vector<std::int64_t> begins{0};
  for (const std::int64_t length : documents.lengths) begins.push_back(begins.back() + length);
  std::vector<OwnPart> out;
  for (std::size_t d = 0; d < documents.lengths.size(); ++d) {
    const std::int64_t begin = begins[d], length = documents.lengths[d];
    const auto own = [&](std::size_t i) { return parts[i].narrow(0, begin, length); };
    const auto seen = [&](std::size_t i) {
      std::vector<at::Tensor> rows;
      for (const std::size_t b : documents.before(d)) rows.push_back(parts[i].narrow(0, begins[b], documents.lengths[b]));
      rows.push_back(own(i));
      return at::cat(rows);
    };
    out.push_back({begin, length, own(0), seen(1), seen(2)});
  }
  return out;
}

// Entries from `keys` and `values` on are a call's to hand on: those that it read first, and those that are its own.
struct HandedOn {
  std::size_t keys = 0, values = 0;
};

// What a call keeps for backward beside its tensors.
struct DepthCall : torch::CustomClassHolder {
  const DepthPasses* passes = nullptr;
  HeadShape shape{};
  SharedEntries shared;
  HandedOn handed_on;
  Documents documents;  // of joint attention
};

// A call that records no gradient reads nothing for the first time: it would never hand anything on.
c10::intrusive_ptr<DepthCall> make_call(const DepthPasses& passes, const HeadShape& shape, const SharedEntries& shared, const at::Tensor& q,
                                        at::TensorList entries) {
  auto call = c10::make_intrusive<DepthCall>();
  call->passes = &passes;
  call->shape = shape;
  const auto learns = [](const at::Tensor& x) { return x.requires_grad(); };
  if (!shared.of || !at::GradMode::is_enabled() || !(learns(q) || std::any_of(entries.begin(), entries.end(), learns))) return call;
  call->shared = shared;
  call->handed_on = {shared.of->keys.read, shared.of->values.read};
  shared.of->keys.read = shared.keys;
  shared.of->values.read = shared.values;
  return call;
}

void save_call(AutogradContext* context, const at::Tensor& input, const at::Tensor& out, const at::Tensor& log_sum_exp_NH,
               at::TensorList entries, const c10::intrusive_ptr<DepthCall>& call) {
  variable_list saved{input, out, log_sum_exp_NH};
  saved.insert(saved.end(), entries.begin(), entries.end());
  context->save_for_backward(saved);
  context->saved_data["call"] = c10::IValue::make_capsule(call);
}

// Gradients of the entries, undefined where another call hands one on; dq is written, or added to.
variable_list entry_gradients(const DepthCall& call, const at::Tensor& d_out, const at::Tensor& q, at::TensorList entries,
                              const at::Tensor& out, const at::Tensor& log_sum_exp_NH, const at::Tensor& dq, bool adds) {
  const std::size_t count = entries.size() / 2;
  const auto side = [&](DepthGradients::Side DepthGradients::*of, std::size_t shared) {
    return EntryGradients(call.shared.of ? &((*call.shared.of).*of) : nullptr, shared, count, q.size(0), call.shape.kv_columns(),
                          out.options());
  };
  EntryGradients d_keys = side(&DepthGradients::keys, call.shared.keys), d_values = side(&DepthGradients::values, call.shared.values);
  call.passes->backward(d_out, q, entries, call.shape, out, log_sum_exp_NH, dq, adds, d_keys, d_values);
  variable_list gradients(2 * count);
  for (std::size_t i = call.handed_on.keys; i < count; ++i) gradients[i] = std::move(*d_keys.all[i]);
  for (std::size_t i = call.handed_on.values; i < count; ++i) gradients[count + i] = std::move(*d_values.all[i]);
  return gradients;
}

class FusedDepthAttention : public torch::autograd::Function<FusedDepthAttention> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& q, at::TensorList entries,
                            const c10::intrusive_ptr<DepthCall>& call) {
    const at::Tensor out = at::empty({q.size(0), call->shape.query_columns()}, q.options());
    save_call(context, q, out, call->passes->forward(q, entries, call->shape, out, {}), entries, call);
    return out;
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const auto holder = context->saved_data["call"].toCapsule();
    const auto& call = static_cast<const DepthCall&>(*holder);
    const at::Tensor dq = at::empty_like(saved[1]);
    variable_list gradients = entry_gradients(call, call.passes->rows(grads[0]), saved[0], at::TensorList(saved).slice(3), saved[1],
                                              saved[2], dq, /*adds=*/false);
    gradients.insert(gradients.begin(), dq);
    gradients.emplace_back();  // the call
    return gradients;
  }
};

class FusedJointAttention : public torch::autograd::Function<FusedJointAttention> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& qkv_NC, at::TensorList entries,
                            const c10::intrusive_ptr<DepthCall>& call) {
    const HeadShape& shape = call->shape;
    const at::Tensor out = at::empty({qkv_NC.size(0), shape.query_columns()}, qkv_NC.options());
    const at::Tensor of_sequence = call->passes->sequence_forward(qkv_NC, shape, call->documents, out);
    const at::Tensor q = qkv_NC.narrow(1, 0, shape.query_columns());
    save_call(context, qkv_NC, out, call->passes->forward(q, entries, shape, out, of_sequence), entries, call);
    return out;
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const auto holder = context->saved_data["call"].toCapsule();
    const auto& call = static_cast<const DepthCall&>(*holder);
    const HeadShape& shape = call.shape;
    const at::Tensor &qkv_NC = saved[0], &out = saved[1], &log_sum_exp_NH = saved[2], d_out = call.passes->rows(grads[0]);
    const at::Tensor d_qkv = at::empty({qkv_NC.size(0), shape.columns()}, qkv_NC.options());
    call.passes->sequence_backward(d_out, qkv_NC, shape, call.documents, out, log_sum_exp_NH, d_qkv);
    const auto query_part = [&](const at::Tensor& packed) { return packed.narrow(1, 0, shape.query_columns()); };
    variable_list gradients = entry_gradients(call, d_out, query_part(qkv_NC), at::TensorList(saved).slice(3), out, log_sum_exp_NH,
                                              query_part(d_qkv), /*adds=*/true);
    gradients.insert(gradients.begin(), d_qkv);
    gradients.emplace_back();  // the call
    return gradients;
  }
};

Entries readable_entries(const DepthPasses& passes, const Entries& keys, const Entries& values) {
  Entries entries;
  for (const auto* list : {&keys, &values}) {
    for (const at::Tensor& entry : *list) entries.push_back(passes.rows(entry));
  }
  return entries;
}

}  // namespace

EntryGradients::EntryGradients(DepthGradients::Side* gathered, std::size_t shared, std::size_t entries, std::int64_t rows,
                               std::int64_t columns, const at::TensorOptions& options) {
  if (gathered != nullptr && gathered->grads.size() < shared) gathered->grads.resize(shared);
  own.resize(entries);
  for (std::size_t i = 0; i < entries; ++i) {
    at::Tensor& grad = gathered != nullptr && i < shared ? gathered->grads[i] : own[i];
    adds.push_back(grad.defined());
    if (!grad.defined()) grad = at::empty({rows, columns}, options);
    all.push_back(&grad);
  }
}

at::Tensor fused_depth_attention(const DepthPasses& passes, const at::Tensor& q, const Entries& keys, const Entries& values,
                                 const HeadShape& shape, const SharedEntries& shared) {
  const Entries entries = readable_entries(passes, keys, values);
  passes.check(q, entries);
  return FusedDepthAttention::apply(passes.rows(q), at::TensorList(entries), make_call(passes, shape, shared, q, entries));
}

at::Tensor fused_joint_attention(const DepthPasses& passes, const at::Tensor& qkv_NC, const Entries& keys, const Entries& values,
                                 const HeadShape& shape, const Documents& documents, const SharedEntries& shared) {
  const Entries entries = readable_entries(passes, keys, values);
  passes.check(qkv_NC, entries);
  const auto call = make_call(passes, shape, shared, qkv_NC, entries);
  call->documents = documents;
  return FusedJointAttention::apply(passes.rows(qkv_NC), at::TensorList(entries), call);
}

at::Tensor depth_attention(const at::Tensor& q, const Entries& keys, const Entries& values, const HeadShape& shape, Path path,
                           const SharedEntries& shared) {
  TORCH_CHECK(!keys.empty() && q.dim() == 2 && q.size(1) == shape.query_columns(), "depth attention: q is ", q.sizes(), ", expected [N, ",
              shape.query_columns(), "], over at least one entry");
  check_entries(q, keys, values, shape);
  if (path == Path::kFused) {
    return fused_depth_attention(q.is_cpu() ? kDepthPassesCpu : kDepthPassesCuda, q, keys, values, shape, shared);
  }
  return weighted_values(depth_scores(q, keys, shape).softmax(-1), values, shape).to(q.scalar_type());
}

at::Tensor joint_attention(const at::Tensor& qkv_NC, const Entries& keys, const Entries& values, const HeadShape& shape,
                           const Documents& documents, Path path, const SharedEntries& shared) {
  check_entries(qkv_NC.narrow(1, 0, shape.query_columns()), keys, values, shape);
  if (path == Path::kFused && (qkv_NC.is_cpu() || documents.beginnings.empty())) {
    return fused_joint_attention(qkv_NC.is_cpu() ? kDepthPassesCpu : kDepthPassesCuda, qkv_NC, keys, values, shape, documents, shared);
  }
  std::vector<at::Tensor> out;
  for (const OwnPart& own : parts_of_documents(qkv_NC, shape, documents)) {
    out.push_back(
        joint_softmax(own.q, own.k, own.v, narrowed(keys, own.begin, own.length), narrowed(values, own.begin, own.length), shape));
  }
  return at::cat(out);
}

at::Tensor depth_attention_weights(const at::Tensor& q, const Entries& keys, const HeadShape& shape) {
  return depth_scores(q, keys, shape).softmax(-1);
}

at::Tensor joint_depth_weights(const at::Tensor& qkv_NC, const Entries& keys, const HeadShape& shape, const Documents& documents) {
  std::vector<at::Tensor> out;
  for (const OwnPart& own : parts_of_documents(qkv_NC, shape, documents)) {
    const at::Tensor weights = joint_weights(own.q, own.k, narrowed(keys, own.begin, own.length), shape);
    out.push_back(weights.narrow(2, own.k.size(0), static_cast<std::int64_t>(keys.size())).transpose(0, 1));
  }
  return at::cat(out);
}

at::Tensor cached_joint_attention(const at::Tensor& q_NC, const std::vector<KeptRows>& kept, const Entries& keys, const Entries& values,
                                  const HeadShape& shape, const Documents& documents, Path) {
  check_entries(q_NC, keys, values, shape);
  std::vector<at::Tensor> out;
  std::int64_t begin = 0;
  for (std::size_t d = 0; d < kept.size(); ++d) {
    const std::int64_t length = documents.lengths[d];
    out.push_back(joint_softmax(q_NC.narrow(0, begin, length), kept[d].keys, kept[d].values, narrowed(keys, begin, length),
                                narrowed(values, begin, length), shape));
    begin += length;
  }
  return out.size() == 1 ? out[0] : at::cat(out);
}

}  // namespace meristem::ops
