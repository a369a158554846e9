#include "nn/block.h"

namespace meristem::nn {

BlockImpl::BlockImpl(std::vector<std::pair<std::string, std::shared_ptr<Mixer>>> mixers) {
  for (auto& [name, mixer] : mixers) mixers_.push_back(register_module(name, std::move(mixer)));
}

at::Tensor BlockImpl::forward(at::Tensor h_ND, CallContext& call) {
  for (const auto& mixer : mixers_) h_ND = h_ND + mixer->forward(h_ND, call).to(h_ND.scalar_type());
  return h_ND;
}

CallCost BlockImpl::cost(std::int64_t context) const {
  CallCost total;
  for (const auto& mixer : mixers_) {
    const CallCost part = mixer->cost(context);
    total.matmul_flops += part.matmul_flops;
    total.score_flops += part.score_flops;
    total.kv_elements += part.kv_elements;
    total.saved_elements += part.saved_elements;
  }
  return total;
}

}  // namespace meristem::nn
