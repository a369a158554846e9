#include "nn/block.h"

namespace meristem::nn {

BlockImpl::BlockImpl(const ModelConfig& config, const Placement& placement, const ops::Paths& paths,
                     std::vector<std::pair<std::string, std::shared_ptr<Mixer>>> mixers)
    : norm_(config.norm), width_(config.width) {
  Placement residual = placement;
  residual.compute = placement.residual;
  for (auto& [name, mixer] : mixers) {
    names_.push_back(name);
    mixers_.push_back(register_module(name, std::move(mixer)));
    if (norm_ == Norm::kPre) continue;
    const char* normed = norms_outputs(norm_) ? "_output_norm" : "_sum_norm";
    norms_.push_back(register_module(name + normed, RmsNorm(width_, config.norm_eps, residual, paths.rms_norm)));
  }
}

at::Tensor BlockImpl::added(std::size_t i, const at::Tensor& h_ND, const at::Tensor& update_ND, CallContext& call) const {
  const InputNormImpl* next = nullptr;
  if (i + 1 < mixers_.size()) {
    next = mixers_[i + 1]->input_norm();
  } else if (call.next_norm) {
    next = call.next_norm();
  }
  if (next == nullptr) return h_ND + update_ND;
  const ops::AddedNorm both = next->forward_sum(h_ND, update_ND);
  call.normed_ND = both.normed;
  return both.sum;
}

// A mixer that knows of one sequence alone. What it would leave in the memory of the depth is not joined: it must leave nothing there.
at::Tensor BlockImpl::decode_one_by_one(Mixer& mixer, const at::Tensor& h_ND, const CallContext& call) const {
  std::vector<at::Tensor> updates;
  std::int64_t begin = 0;
  for (std::size_t d = 0; d < call.states.size(); ++d) {
    const std::int64_t tokens = call.documents->lengths[d];
    const at::Tensor positions = call.positions_N->narrow(0, begin, tokens);
    const ops::Documents document = ops::Documents{{tokens}}.on(h_ND.device());
    CallContext one = call;
    one.positions_N = &positions;
    one.documents = &document;
    one.states = {call.states[d]};
    one.state = call.states[d];
    if (call.normed_ND.defined()) one.normed_ND = call.normed_ND.narrow(0, begin, tokens);
    updates.push_back(mixer.forward(h_ND.narrow(0, begin, tokens), one));
    begin += tokens;
  }
  return at::cat(updates);
}

at::Tensor BlockImpl::forward(at::Tensor h_ND, CallContext& call) {
  for (std::vector<DecodeState>* kept : call.decoding) kept->resize(mixers_.size());
  call.states.resize(call.decoding.size());
  for (std::size_t i = 0; i < mixers_.size(); ++i) {
    for (std::size_t d = 0; d < call.decoding.size(); ++d) call.states[d] = &(*call.decoding[d])[i];
    call.state = call.states.empty() ? nullptr : call.states.front();
    const bool one_by_one = call.states.size() > 1 && !mixers_[i]->decodes_together();
    const at::Tensor update_ND =
        (one_by_one ? decode_one_by_one(*mixers_[i], h_ND, call) : mixers_[i]->forward(h_ND, call)).to(h_ND.scalar_type());
    if (update_ND.size(0) != h_ND.size(0)) h_ND = h_ND.index_select(0, *call.asked_A);
    const at::Tensor before_ND = h_ND;
    switch (norm_) {
      case Norm::kPre: h_ND = added(i, h_ND, update_ND, call); break;
      case Norm::kPost:
      case Norm::kBoth: h_ND = added(i, h_ND, norms_[i]->forward(update_ND), call); break;
      case Norm::kSandwich: h_ND = norms_[i]->forward_sum(h_ND, update_ND); break;
    }
    if (call.observer == nullptr) continue;
    const at::Tensor observed_ND = call.observer->mixed(call, i, before_ND, h_ND);
    if (!observed_ND.is_same(h_ND)) call.normed_ND = at::Tensor();  // which is of another sum
    h_ND = observed_ND;
  }
  return h_ND;
}

bool BlockImpl::runs_on_strands() const {
  return std::all_of(mixers_.begin(), mixers_.end(), [](const auto& mixer) { return mixer->runs_on_strands(); });
}

void BlockImpl::prepare(std::int64_t calls) {
  for (const auto& mixer : mixers_) mixer->prepare(calls);
}

CallCost BlockImpl::cost(const CallPlace& place) const {
  CallCost total;
  for (const auto& mixer : mixers_) {
    const CallCost part = mixer->cost(place);
    total.matmul_flops += part.matmul_flops;
    total.score_flops += part.score_flops;
    total.kv_elements += part.kv_elements;
    total.state_elements += part.state_elements;
    total.saved_elements += part.saved_elements + (norms_.empty() ? 0 : static_cast<double>(width_));
    total.saved_fp32 += part.saved_fp32;
    total.saved_casts += part.saved_casts;
    total.memory_elements += part.memory_elements;
    total.expert_parameters += part.expert_parameters;
    total.active_share = std::max(total.active_share, part.active_share);
  }
  return total;
}

std::vector<ModelPart> BlockImpl::parts() const {
  std::vector<ModelPart> parts;
  for (std::size_t i = 0; i < mixers_.size(); ++i) {
    parts.push_back(mixers_[i]->part());
    parts.back().name = names_[i];
  }
  return parts;
}

std::int64_t BlockImpl::experts() const {
  std::int64_t most = 0;
  for (const auto& mixer : mixers_) most = std::max(most, mixer->experts());
  return most;
}

void BlockImpl::balance(const at::Tensor& counts_E, const at::Tensor& updated) {
  for (const auto& mixer : mixers_) mixer->balance(counts_E, updated);
}

}  // namespace meristem::nn
