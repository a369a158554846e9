#include "models/activation_memory.h"

#include <algorithm>
#include <optional>
#include <vector>

namespace meristem {
namespace {

double bytes_of(std::optional<Precision> type) { return type == Precision::kBf16 ? 2 : 4; }

class Walk {
 public:
  Walk(const RunConfig& config, const Model& model, const DepthPlan& plan)
      : config_(config),
        model_(model),
        plan_(plan),
        element_(bytes_of(config.precision.compute)),
        tokens_(static_cast<double>(config.batch.micro_sequences * config.data.sequence_length)),
        width_(static_cast<double>(config.model.width)) {
    for (std::int64_t r = 0; r < plan.num_calls(); ++r) kept_.push_back(kept_by(r));
  }

  ActivationMemory result() {
    double kept = 0;
    for (const double bytes : kept_) kept += bytes;
    ActivationMemory memory;
    memory.peak = std::max(kept + head_forward(), kept + head_backward());
    const std::vector<BlockGradient> gradients = block_gradients();
    double pending = 0;     // of blocks that were called after r and are called again before
    double remembered = 0;  // gradients of what calls up to r left for later ones
    for (std::int64_t r = 0; r < plan_.num_calls(); ++r) remembered += reaches(r) ? remembered_by(r) : 0;
    for (std::int64_t r = plan_.num_calls() - 1; r >= 0; --r) {
      if (!reaches(r)) continue;
      const BlockGradient& gradient = gradients[static_cast<std::size_t>(block_of(r))];
      memory.loop_gradients = std::max(memory.loop_gradients, pending);
      memory.peak = std::max(memory.peak, kept + pending + remembered + call_backward(r, gradient));
      remembered -= remembered_by(r);
      kept -= kept_[static_cast<std::size_t>(r)];
      if (gradient.first == gradient.last) continue;
      if (r == gradient.last) pending += gradient.bytes;
      if (r == gradient.first) pending -= gradient.bytes;
    }
    return memory;
  }

 private:
  std::int64_t block_of(std::int64_t r) const { return plan_.calls()[static_cast<std::size_t>(r)]; }
  nn::CallCost cost_of(std::int64_t r) const { return model_.call_cost(block_of(r), {config_.data.sequence_length, r}); }
  double saved_by(std::int64_t r) const {
    const nn::CallCost cost = cost_of(r);
    return tokens_ * (element_ * cost.saved_elements + 4 * (cost.saved_fp32 + (element_ == 4 ? 0 : cost.saved_casts)));
  }
  // Keys and values that call r leaves for later calls.
  double remembered_by(std::int64_t r) const { return element_ * tokens_ * cost_of(r).memory_elements; }
  bool checkpointed(std::int64_t r) const {
    const std::int64_t every = config_.memory.activation_checkpointing.every;
    return every > 0 && r % every == 0;
  }

  // First repeat that gradients flow through.
  std::int64_t first_learning() const {
    const auto& last = config_.model.loop.backprop_last;
    return plan_.loop() && last ? std::max<std::int64_t>(0, plan_.loop()->repeats - *last) : 0;
  }
  // Whether backward comes to call r. Behind a truncation nothing is kept, and before the loop only what an injection leads to.
  bool reaches(std::int64_t r) const {
    if (first_learning() == 0) return true;
    if (plan_.loop()->holds(r)) return plan_.loop()->repeat_of(r) >= first_learning();
    return r >= plan_.loop()->end() || config_.model.loop.injection != Injection::kNone;
  }

  double kept_by(std::int64_t r) const {
    if (!reaches(r)) return 0;
    double kept = checkpointed(r) ? bytes_of(config_.precision.residual) * tokens_ * width_ + remembered_by(r) : saved_by(r);
    if (plan_.loop() && plan_.loop()->begins_repeat(r)) kept += element_ * tokens_ * model_.injection_cost().saved_elements;
    return kept;
  }

  // The head computes its gradient in forward: a chunk of logits, the hidden states with their norm and gradient, the weight's gradient,
  // which is summed in fp32 where there are several chunks (a bf16 part, and its copy in fp32, beside the sum).
  double head_forward() const {
    const double vocab = static_cast<double>(config_.model.vocab_size);
    const double chunk = std::min(tokens_, static_cast<double>(nn::head_chunk(config_.model.vocab_size)));
    const double weight = chunk < tokens_ && element_ == 2 ? 4 + 4 + 2 : element_;
    return element_ * (chunk * vocab + 3 * tokens_ * width_) + weight * vocab * width_;
  }
  // Both saved gradients, and both scaled.
  double head_backward() const { return element_ * (3 * tokens_ * width_ + 2 * static_cast<double>(config_.model.vocab_size) * width_); }
  // By block: its gradient, the part of its largest tensor, and the first and last call that adds to it.
  struct BlockGradient {
    double bytes = 0, largest = 0;
    std::int64_t first = -1, last = -1;
  };
  // The gradient of the stream, the tied embedding's from the head, and of the block's own, one tensor at a time. Where the call ran again:
  // first all that it saved, with the gradients inside it, about a third of that (elsewhere they take the place of what is freed on the
  // way); in the end the gradients of all the block's tensors.
  double call_backward(std::int64_t r, const BlockGradient& gradient) const {
    const double tied = config_.model.tie_embeddings ? element_ * static_cast<double>(config_.model.vocab_size) * width_ : 0;
    const double again = std::max(saved_by(r) * 4 / 3, saved_by(r) / 3 + gradient.bytes);
    return element_ * tokens_ * width_ + tied + (checkpointed(r) ? again : gradient.largest);
  }
  std::vector<BlockGradient> block_gradients() const {
    std::vector<BlockGradient> gradients(static_cast<std::size_t>(plan_.max_block() + 1));
    for (const ParameterInfo& info : model_.parameter_infos()) {
      if (info.name.rfind("blocks.", 0) != 0) continue;
      const auto block = static_cast<std::size_t>(std::stoll(info.name.substr(7)));
      if (block >= gradients.size()) continue;
      const double bytes = element_ * static_cast<double>(info.tensor.numel());
      gradients[block].bytes += bytes;
      gradients[block].largest = std::max(gradients[block].largest, bytes);
    }
    for (std::int64_t r = 0; r < plan_.num_calls(); ++r) {
      if (!reaches(r)) continue;
      BlockGradient& gradient = gradients[static_cast<std::size_t>(block_of(r))];
      if (gradient.first < 0) gradient.first = r;
      gradient.last = r;
    }
    return gradients;
  }

  const RunConfig& config_;
  const Model& model_;
  const DepthPlan& plan_;
  double element_, tokens_, width_;
  std::vector<double> kept_;
};

}  // namespace

ActivationMemory activation_memory(const RunConfig& config, const Model& model, const DepthPlan& plan) {
  return Walk(config, model, plan).result();
}

}  // namespace meristem
