// The one model: token embedding, a stack of unique blocks called in the order of a depth plan, final norm, output head.
// Every architecture is a choice of the mixers that its blocks hold.
#pragma once

#include <functional>

#include "models/model.h"
#include "nn/block.h"
#include "nn/layers.h"

namespace meristem {

// Makes block `index`; called once a block, at construction. A growth rebuilds the model: no module is ever edited in place.
using BlockFactory = std::function<nn::Block(std::int64_t index)>;

class DepthModel : public Model {
 public:
  // `config.blocks` blocks are built; during growth pass a config with the stage's number.
  DepthModel(const ModelConfig& config, const ModelBuild& build, std::int64_t max_positions, const BlockFactory& make_block);

  nn::LossSums loss(const Batch& batch, const DepthPlan& plan) override;
  at::Tensor stream(const Batch& batch, const DepthPlan& plan) override;
  at::Tensor read_out(const at::Tensor& h_ND) const override;
  using Model::decode;
  at::Tensor decode(const at::Tensor& tokens_N, const std::vector<std::int64_t>& lengths, const DepthPlan& plan,
                    const std::vector<DecodeCache*>& caches) override;
  void begin_update(const DepthPlan& plan, std::int64_t strands = 1) override;
  bool runs_on_strands() const override;
  at::Tensor expert_counts() const override { return counts_.all(); }
  void after_step(const at::Tensor& updated, const at::Tensor& counts) override;
  const nn::ExpertLoads& expert_loads() const override { return last_loads_; }
  std::vector<ModelPart> parts(std::int64_t block) const override { return blocks_.at(static_cast<std::size_t>(block))->parts(); }
  nn::CallCost call_cost(std::int64_t block, const nn::CallPlace& place) const override;
  double head_flops() const override;
  nn::CallCost injection_cost() const override;

 private:
  // The stream [N, D] behind the last call, or the rows of call.asked_A alone.
  at::Tensor run(const at::Tensor& tokens_N, const DepthPlan& plan, nn::CallContext call, const std::vector<DecodeCache*>& caches = {},
                 bool counts_loads = false);
  nn::LossSums loss_of(const at::Tensor& h_ND, const at::Tensor& targets_N) const;
  nn::LossSums loss_where_asked(const Batch& batch, const DepthPlan& plan, nn::CallContext call);
  at::Tensor run_call(const at::Tensor& h_ND, std::int64_t block, nn::CallContext& call) const;
  // Whether call r is computed again in backward, of its input alone, where there is a backward.
  bool checkpoints(std::int64_t r) const { return build_.checkpoint_every > 0 && r % build_.checkpoint_every == 0; }
  const at::Tensor& head_weight() const { return head_.is_empty() ? embedding_->weight() : head_->weight(); }
  void grow_rope_table(std::int64_t positions);
  void make_room_for(const Batch& batch);

  ModelConfig config_;
  ModelBuild build_;
  nn::Linear embedding_{nullptr}, head_{nullptr};  // weights [V, D]; head_ empty where tied
  std::vector<nn::Block> blocks_;
  nn::RmsNorm norm_{nullptr};
  nn::Linear injection_{nullptr};      // weight [D, 2 D]; empty without injection: concat
  ops::RopeTable rope_, no_rotation_;  // no_rotation_: of the blocks without RoPE, where there are such
  std::int64_t experts_ = 0;           // of a block; 0: none
  nn::ExpertCounts counts_;            // of the update under way
  std::vector<std::int64_t> calls_;    // its plan's: the block of each call
  nn::ExpertLoads last_loads_;         // of the last update
};

}  // namespace meristem
