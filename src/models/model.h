// The only face of a model that training, evaluation and growth see.
#pragma once

#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "config/run_config.h"
#include "depth/plan.h"
#include "nn/layers.h"
#include "nn/mixer.h"

namespace meristem {

// N tokens, flattened; `documents` cuts them into sequences or documents.
struct Batch {
  at::Tensor tokens_N;     // int32
  at::Tensor targets_N;    // int32, negative where there is no target
  at::Tensor positions_N;  // int32, restarting at each document
  ops::Documents documents;
};

// What is kept of one sequence between tokens: for each call of the plan what its mixers keep.
struct DecodeCache {
  std::vector<std::vector<nn::DecodeState>> calls;
  std::int64_t length = 0;    // tokens seen
  std::int64_t expected = 0;  // that it is thought to have in the end: so much room is made at once; 0: nobody knows
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

  // The residual stream [N, D] behind the last call, uncached.
  virtual at::Tensor stream(const Batch& batch, const DepthPlan& plan) = 0;
  // What the end of the model makes of a stream: final norm and head, [N, V]. Memory grows with N x V.
  virtual at::Tensor read_out(const at::Tensor& h_ND) const = 0;
  // Logits [N, V] of every token of the batch, uncached. For tests and analysis.
  at::Tensor logits(const Batch& batch, const DepthPlan& plan) { return read_out(stream(batch, plan)); }

  // Feeds the next tokens of some sequences: `lengths[s]` of tokens_N (int32) go behind the caches[s]->length earlier ones of sequence s.
  // Returns the logits of each sequence's last token, [sequences, V]. No gradient. One token each of at most ops::kFewRows sequences: on a
  // CPU with kernels of our own a sequence's logits do not depend on the others, to the bit (without experts).
  virtual at::Tensor decode(const at::Tensor& tokens_N, const std::vector<std::int64_t>& lengths, const DepthPlan& plan,
                            const std::vector<DecodeCache*>& caches) = 0;
  // The same of one sequence, [V].
  at::Tensor decode(const at::Tensor& tokens_t, const DepthPlan& plan, DecodeCache& cache) {
    return decode(tokens_t, {tokens_t.size(0)}, plan, {&cache}).squeeze(0);
  }

  // Begins an update whose losses with gradients run under `plan`, on so many strands (ops/strands.h): experts count their loads from zero,
  // on the device, and what calls look up by their place in the plan is there before anything is captured or runs at the same time.
  virtual void begin_update(const DepthPlan& plan, std::int64_t strands = 1) = 0;
  // The update's loads so far, [calls, experts] int64, a copy; undefined without experts.
  virtual at::Tensor expert_counts() const = 0;
  // Ends an update. What no gradient moves, the balance biases of experts, moves here by `counts`, expert_counts() or its sum over ranks,
  // where `updated` is true: a [] bool on the device, which the host does not read. Elsewhere every bit stays.
  virtual void after_step(const at::Tensor& updated, const at::Tensor& counts) = 0;
  // Loads of the last update, as after_step was given them; empty without experts.
  virtual const nn::ExpertLoads& expert_loads() const = 0;

  // Whether strands may pass at the same time: all of its mixers say so.
  virtual bool runs_on_strands() const = 0;

  // The mixers of a block, in order.
  virtual std::vector<ModelPart> parts(std::int64_t block) const = 0;
  // One call of a block, per token.
  virtual nn::CallCost call_cost(std::int64_t block, const nn::CallPlace& place) const = 0;
  // Forward FLOPs of the output head, per token.
  virtual double head_flops() const = 0;
  // What a repeat of the loop costs beside its calls, per token: the injection's map.
  virtual nn::CallCost injection_cost() const = 0;

  // While set, forward passes go by it (nn/observer.h); null: by none.
  void observe(nn::CallObserver* observer) { observer_ = observer; }

  // While set, forward passes say which weights they are about to read (FlatEntry::part): kFirstPart, i for block i at each of its calls,
  // then kLastPart.
  void before_reading(std::function<void(std::int64_t part)> told) { before_reading_ = std::move(told); }

 protected:
  nn::CallObserver* observer_ = nullptr;
  std::function<void(std::int64_t)> before_reading_;
};

// Keeps the RMS of the residual stream after the embedding and after each call, of all strands that pass.
class StreamRms : public nn::CallObserver {
 public:
  explicit StreamRms(std::int64_t strands = 1) : by_strand_(static_cast<std::size_t>(strands)) {}
  at::Tensor entering(const nn::CallContext& call, const at::Tensor& h_ND) override;
  at::Tensor leaving(const nn::CallContext& call, const at::Tensor& input_ND, const at::Tensor& output_ND) override;
  // [] each, of the stream's type.
  std::vector<at::Tensor> values() const;

 private:
  struct Seen {
    std::int64_t rows = 0;
    std::vector<at::Tensor> rms;
  };
  void keep(const at::Tensor& h_ND);
  std::vector<Seen> by_strand_;
};

// While it lives, passes of the model go by the observer.
class Observing {
 public:
  Observing(Model& model, nn::CallObserver* observer) : model_(model) { model_.observe(observer); }
  ~Observing() { model_.observe(nullptr); }
  Observing(const Observing&) = delete;
  Observing& operator=(const Observing&) = delete;

 private:
  Model& model_;
};

}  // namespace meristem
