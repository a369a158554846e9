// A mixer is one residual branch of a block: sequence attention, depth attention, or feed-forward. A block is a list of mixers, so an
// architecture is a choice of mixers plus a depth plan.
#pragma once

#include <cstdint>

#include "nn/depth_memory.h"
#include "nn/module.h"
#include "ops/documents.h"
#include "ops/rope.h"

namespace meristem::nn {

// Keys and values of one call for one sequence while decoding; grows along dim 0.
struct KvSlot {
  at::Tensor k, v;  // [S, G*K] of the compute type; undefined before the first token
};

// What a call of a block may know beside its input.
struct CallContext {
  std::int64_t depth_index = 0;               // place in the depth plan
  std::int64_t block = 0;                     // the block that is called
  const at::Tensor* positions_N = nullptr;    // int32, restarting at each document
  const ops::Documents* documents = nullptr;  // training and prefill
  const ops::RopeTable* rope = nullptr;
  KvSlot* cache = nullptr;        // decoding: this call's slot
  DepthMemory* memory = nullptr;  // one object for all calls of a forward pass
  at::Tensor loads_E;             // int64: experts add their tokens' choices; undefined in evaluation and where a call is computed again
};

// What one call costs, for `plan` and for FLOP rates. A multiply-add is 2.
struct CallCost {
  double matmul_flops = 0;       // per token, forward, without attention scores
  double score_flops = 0;        // per token, forward, causal attention counted half
  double kv_elements = 0;        // cached per token
  double saved_elements = 0;     // of the compute type, kept per token for backward
  double saved_fp32 = 0;         // elements kept per token in fp32, whatever the compute type
  double saved_casts = 0;        // fp32 copies kept per token, which only another compute type needs
  double memory_elements = 0;    // of the compute type, part of saved_elements: what the call leaves per token for later calls of its depth
  double expert_parameters = 0;  // of the block's routed experts, all of them
  double active_share = 0;       // part of them that one call uses
};

// Where a call stands, as far as its cost depends on it.
struct CallPlace {
  std::int64_t context = 0;      // tokens that a query sees at most
  std::int64_t depth_index = 0;  // calls before it
};

class Mixer : public Module {
 public:
  // h_ND: the residual stream [N, D]. Returns the contribution [N, D] to add to it, of the compute type.
  virtual at::Tensor forward(const at::Tensor& h_ND, CallContext& call) = 0;
  virtual CallCost cost(const CallPlace& place) const = 0;
  // How many experts the mixer chooses among; 0: it is no such mixer.
  virtual std::int64_t experts() const { return 0; }
  // Moves what an update's expert loads move, where `updated` ([] bool, on the device) is true; elsewhere every bit stays. counts_E: int64,
  // summed over the calls of this mixer's block.
  virtual void balance(const at::Tensor& /*counts_E*/, const at::Tensor& /*updated*/) {}
};

}  // namespace meristem::nn
