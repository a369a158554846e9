#include "core/named_tensors.h"

#include <c10/util/Exception.h>

namespace meristem {

void NamedTensors::add(std::string name, at::Tensor tensor) {
  TORCH_CHECK(index_.emplace(name, entries_.size()).second, "tensor named twice: ", name);
  entries_.emplace_back(std::move(name), std::move(tensor));
}

const at::Tensor& NamedTensors::at(const std::string& name) const {
  const auto found = index_.find(name);
  TORCH_CHECK(found != index_.end(), "no tensor named ", name);
  return entries_[found->second].second;
}

}  // namespace meristem
