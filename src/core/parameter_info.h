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
  kNorm        // gain of a norm: not decayed, kept and used in fp32
};

struct ParameterInfo {
  std::string name;  // full name, "blocks.3.attention.qkv.weight"
  Role role;
  double init_std;   // 0: filled with ones
  at::Tensor tensor;
};

}  // namespace meristem
