// Where a call of attention over depth puts its entries' gradients, on whatever device: ops/depth_attention.h says what calls share.
#pragma once

#include <algorithm>
#include <vector>

#include <torch/torch.h>

#include "ops/depth_attention.h"

namespace meristem::ops {

// Entries from `keys` and `values` on are a call's to hand on: those that it read first, and those that are its own.
struct HandedOn {
  std::size_t keys = 0, values = 0;
};

// Gradients of one side of the entries: of the shared ones in their gathering place, of the others in tensors of their own.
struct EntryGradients {
  EntryGradients(DepthGradients::Side* gathered, std::size_t shared, std::size_t entries, std::int64_t rows, std::int64_t columns,
                 const at::TensorOptions& options) {
    if (gathered != nullptr && gathered->grads.size() < shared) gathered->grads.resize(shared);
    own.resize(entries);
    for (std::size_t i = 0; i < entries; ++i) {
      at::Tensor& grad = gathered != nullptr && i < shared ? gathered->grads[i] : own[i];
      adds.push_back(grad.defined());
      if (!grad.defined()) grad = at::empty({rows, columns}, options);
      all.push_back(&grad);
    }
  }
  std::vector<at::Tensor> own;
  std::vector<at::Tensor*> all;
  std::vector<bool> adds;
};

// What a call keeps for backward beside its tensors.
struct DepthCall : torch::CustomClassHolder {
  HeadShape shape;
  SharedEntries shared;
  HandedOn handed_on;
  std::vector<std::int64_t> lengths;  // of joint attention's sequences
};

// A call that records no gradient reads nothing for the first time: it would never hand anything on.
inline c10::intrusive_ptr<DepthCall> make_call(const HeadShape& shape, const SharedEntries& shared, const at::Tensor& q,
                                               at::TensorList entries) {
  auto call = c10::make_intrusive<DepthCall>();
  call->shape = shape;
  const auto learns = [](const at::Tensor& x) { return x.requires_grad(); };
  if (!shared.of || !at::GradMode::is_enabled() || !(learns(q) || std::any_of(entries.begin(), entries.end(), learns))) return call;
  call->shared = shared;
  call->handed_on = {shared.of->keys.read, shared.of->values.read};
  shared.of->keys.read = shared.keys;
  shared.of->values.read = shared.values;
  return call;
}

inline const DepthCall& saved_call(torch::autograd::AutogradContext* context) {
  return static_cast<const DepthCall&>(*context->saved_data["call"].toCapsule());
}

}  // namespace meristem::ops
