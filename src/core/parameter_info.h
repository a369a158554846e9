// What the rooms say to each other about a model's parameters: name, role, start, tensor. Needs LibTorch's tensor type.
#pragma once

#include <string>

#include <ATen/core/Tensor.h>

namespace meristem {

// What a parameter is for. Decay and precision follow from it (docs/configuration.md, optimizer.weight_decay).
enum class Role {
  kLinear,     // matrix of a linear map: decayed, compute precision
  kEmbedding,  // token embedding, tied or not: not decayed, compute precision
  kHead,       // untied output head: decayed, compute precision
  kNorm,       // gain of a norm: not decayed, kept and used in fp32
  kRouter,     // matrix that makes a router's queries: decayed, fp32
  kRouterKey,  // a router's keys: not decayed, fp32
  kBalance     // balance bias of experts: moved by a rule and not by a gradient, not decayed, fp32
};

inline bool is_decayed(Role role, bool decay_embeddings) {
  return role == Role::kLinear || role == Role::kHead || role == Role::kRouter || (role == Role::kEmbedding && decay_embeddings);
}
// Whether the model computes with the fp32 master itself, whatever its compute type.
inline bool stays_fp32(Role role) {
  return role == Role::kNorm || role == Role::kRouter || role == Role::kRouterKey || role == Role::kBalance;
}

struct ParameterInfo {
  std::string name;  // full name, "blocks.3.attention.qkv.weight"
  Role role;
  double init_std;  // 0: filled with ones where it is a norm, with zeros where not
  at::Tensor tensor;
};

}  // namespace meristem
