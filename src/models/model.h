// The only face of a model that training, evaluation and growth see.
#pragma once

#include <cstdint>
#include <vector>

#include "config/run_config.h"
#include "depth/plan.h"
#include "nn/mixer.h"
#include "nn/output_head.h"

namespace meristem {

// N tokens, flattened; `documents` cuts them into sequences or documents.
struct Batch {
  at::Tensor tokens_N;     // int32
  at::Tensor targets_N;    // int32, negative where there is no target
  at::Tensor positions_N;  // int32, restarting at each document
  ops::Documents documents;
};

// Keys and values of one sequence, one slot a call of the plan.
struct KvCache {
  std::vector<nn::KvSlot> slots;
  std::int64_t length = 0;  // tokens seen
};

// How a model is built: where, in what types, with which kernels.
struct ModelBuild {
  nn::Placement placement;
  ops::Paths paths;
  std::int64_t checkpoint_every = 0;  // memory.activation_checkpointing: every so many calls one keeps its input alone; 0: none
};

class Model : public nn::Module {
 public:
  // Sums over the batch's targets under `plan`. Differentiable where gradients are enabled.
  virtual nn::LossSums loss(const Batch& batch, const DepthPlan& plan) = 0;

  // Logits [N, V] of every token of the batch, uncached. For tests and scoring: memory grows with N x V.
  virtual at::Tensor logits(const Batch& batch, const DepthPlan& plan) = 0;

  // Feeds `tokens` (int32 [t]) after cache.length earlier ones of the same sequence; returns the last token's logits [V]. No gradient.
  virtual at::Tensor decode(const at::Tensor& tokens_t, const DepthPlan& plan, KvCache& cache) = 0;

  // Ends an optimizer step. What no gradient moves, the balance biases of experts, moves here by the loads of the step's losses with
  // gradients; where the update was skipped (`updated` false) it stays, and only the counts begin anew.
  virtual void after_step(bool updated) = 0;
  // Loads that after_step will take: of the losses with gradients since the last one. A step made of captured graphs counts by itself.
  virtual nn::ExpertLoads& pending_loads() = 0;
  // Loads of the last step, by place in the plan; empty without experts.
  virtual const nn::ExpertLoads& expert_loads() const = 0;

  // One call of a block, per token.
  virtual nn::CallCost call_cost(std::int64_t block, const nn::CallPlace& place) const = 0;
  // Forward FLOPs of the output head, per token.
  virtual double head_flops() const = 0;
  // What a repeat of the loop costs beside its calls, per token: the injection's map.
  virtual nn::CallCost injection_cost() const = 0;

  // While set, forward passes append the RMS of the residual stream, [] of its type, after the embedding and after each call. Reads alone.
  void record_stream(std::vector<at::Tensor>* stream_rms) { stream_rms_ = stream_rms; }

 protected:
  std::vector<at::Tensor>* stream_rms_ = nullptr;
};

}  // namespace meristem
