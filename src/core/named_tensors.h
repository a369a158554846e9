// Tensors by name: insertion-ordered, each name once. Weights, optimizer state and gradients all travel in this form.
#pragma once

#include <cstddef>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

namespace meristem {

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

}  // namespace meristem
