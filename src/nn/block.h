// A block: its mixers in order, each added to the residual stream.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "nn/mixer.h"

namespace meristem::nn {

class BlockImpl : public Module {
 public:
  // Mixers by name ("attention", "feed_forward"), in the order in which they run. The name is part of the parameters' names.
  explicit BlockImpl(std::vector<std::pair<std::string, std::shared_ptr<Mixer>>> mixers);
  // h_ND -> h_ND, of the residual type.
  at::Tensor forward(at::Tensor h_ND, CallContext& call);
  CallCost cost(std::int64_t context) const;

 private:
  std::vector<std::shared_ptr<Mixer>> mixers_;
};
TORCH_MODULE(Block);

}  // namespace meristem::nn
