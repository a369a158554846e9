// What the rooms say to each other about tensors: tensors by name, the form in which weights, optimizer state and gradients travel, and
// what a model says of each parameter. Needs LibTorch's tensor type.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

namespace meristem {

// Insertion-ordered, each name once.
class NamedTensors {
 public:
  using Entry = std::pair<std::string, at::Tensor>;

  void add(std::string name, at::Tensor tensor);  // a name twice is a bug: throws c10::Error
  bool contains(const std::string& name) const { return index_.contains(name); }
  const at::Tensor& at(const std::string& name) const;  // throws c10::Error where it is missing
  std::size_t size() const { return entries_.size(); }
  bool empty() const { return entries_.empty(); }
  auto begin() const { return entries_.begin(); }
  auto end() const { return entries_.end(); }

 private:
  std::vector<Entry> entries_;
  std::unordered_map<std::string, std::size_t> index_;
};

// What a parameter is for. Decay and precision follow from it (docs/configuration.md, optimizer.weight_decay).
enum class Role {
  kLinear,     // matrix of a linear map: decayed, compute precision
  kEmbedding,  // token embedding, tied or not: not decayed, compute precision
  kHead,       // untied output head: decayed, compute precision
  kBias,       // of a linear map: not decayed, compute precision
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

// The rows of the matrices that a parameter packs one below the other, (queries, keys, values) for example. Empty: it is one matrix.
using MatrixRows = std::vector<std::int64_t>;

struct ParameterInfo {
  std::string name;  // full name, "blocks.3.attention.qkv.weight"
  Role role;
  double init_std;  // 0: filled with ones where it is a norm, with zeros where not
  at::Tensor tensor;
  MatrixRows packed_rows = {};  // of an expert, where the tensor is [experts, rows, columns]
  bool ends_mixer = false;      // the last map of a mixer: a mixer in which all of these are zero adds nothing to the stream
};

}  // namespace meristem
