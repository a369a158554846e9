// A mixer is one residual branch of a block: sequence attention, depth attention, or feed-forward. A block is a list of mixers, so an
// architecture is a choice of mixers plus a depth plan.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <vector>

#include <ATen/Functions.h>

#include "core/model_part.h"
#include "nn/module.h"
#include "nn/observer.h"
#include "ops/attention.h"
#include "ops/depth_attention.h"
#include "ops/rope.h"
#include "ops/strands.h"

namespace meristem::nn {

// What one call of a mixer keeps of one sequence between tokens while decoding: keys and values, or a state of fixed size. What the tensors
// are is the mixer's own affair; none before the first token.
using DecodeState = std::vector<at::Tensor>;

// What tokens keep of their own way through the depth, for one forward pass: never part of the sequence's KV cache, in decoding neither.
// A call is a function of its input, `state`, `previous`, and the keys and values so far; what it appends to them is a further output.
// It never changes what stands there: a call that is computed again gets the same memory as the first time.
struct DepthMemory {
  at::Tensor state;                      // [N, D], residual type: what the call before left, injections aside; the first one's is h_0
  at::Tensor previous;                   // [N, D]: what the call before began with; undefined in the first call
  std::vector<at::Tensor> keys, values;  // one entry a call, of a shape that the mixers agree on

  c10::intrusive_ptr<ops::DepthGradients> gradients;  // where calls gather those of the entries; null where each call hands on its own

  // For a call that reads the first `shared_keys` and `shared_values` entries of this memory.
  ops::SharedEntries shared(std::size_t shared_keys, std::size_t shared_values) const { return {gradients, shared_keys, shared_values}; }
  // left_ND: the stream as the call before left it; input_ND: what the running call begins with. They differ where a loop injects.
  void begin_call(const at::Tensor& left_ND, const at::Tensor& input_ND) {
    previous = input_;
    state = left_ND;
    input_ = input_ND;
  }

 private:
  at::Tensor input_;  // of the running call
};

class InputNormImpl;

// What a call of a block may know beside its input.
struct CallContext {
  std::int64_t depth_index = 0;               // place in the depth plan
  std::int64_t block = 0;                     // the block that is called
  const at::Tensor* positions_N = nullptr;    // int32, restarting at each document
  const ops::Documents* documents = nullptr;  // training and prefill
  const ops::RopeTable* rope = nullptr;
  // While decoding, of this call: for each document, which is the next part of a sequence, what that sequence keeps, one a mixer of the
  // block. Empty: whole sequences.
  std::vector<std::vector<DecodeState>*> decoding;
  // Of the mixer that runs, where decoding: of each document, and of the document where there is one, which is all that a mixer meets that
  // does not decode_together().
  std::vector<DecodeState*> states;
  DecodeState* state = nullptr;
  at::Tensor normed_ND;  // what its input_norm() makes of its input, where that came with the addition before, of this call or the last
  // The norm that the next call begins with, once its weight may be read; null: it has none. Empty where the next call does not begin with
  // the very tensor that this one leaves.
  std::function<const InputNormImpl*()> next_norm;
  std::int64_t expected = 0;      // tokens that a sequence is thought to have in the end; 0: nobody knows
  DepthMemory* memory = nullptr;  // one object for all calls of a forward pass
  CallObserver* observer = nullptr;
  // int64, ascending: the only rows of the call's result that anybody reads; null: all. Sequence attention, to which the others are of use,
  // may return these alone, and so does the block from there on.
  const at::Tensor* asked_A = nullptr;
  at::Tensor loads_E;  // int64: experts add their tokens' choices; undefined in evaluation and where a call is computed again
};

// How many token choices each expert received in an update, for whoever logs it: by place in the depth plan.
struct ExpertLoads {
  struct Call {
    std::int64_t block = 0;
    at::Tensor counts_E;  // int64
  };
  std::map<std::int64_t, Call> by_depth;

  void add(std::int64_t depth_index, std::int64_t block, const at::Tensor& counts_E) {
    Call& call = by_depth[depth_index];
    call.block = block;
    call.counts_E = call.counts_E.defined() ? call.counts_E + counts_E : counts_E;
  }
  void add(const ExpertLoads& other) {
    for (const auto& [depth_index, call] : other.by_depth) add(depth_index, call.block, call.counts_E);
  }
};

// Where the calls of an update count, on the device: int64, a row of `experts` a call, added to in place. A row stays where it is for good,
// because captured graphs add to it too, those of other plans included.
class ExpertCounts {
 public:
  // All rows are zero; each strand has at least `calls`.
  void begin(std::int64_t calls, std::int64_t experts, at::Device device, std::int64_t strands = 1) {
    calls_ = calls;
    if (std::ssize(strands_) != strands) strands_.resize(static_cast<std::size_t>(strands));
    for (std::vector<at::Tensor>& parts : strands_) {
      for (const at::Tensor& rows : parts) rows.zero_();
      while (std::ssize(parts) * kRows < calls) {
        parts.push_back(at::zeros({kRows, experts}, at::TensorOptions(device).dtype(at::kLong)));
      }
    }
  }
  std::int64_t calls() const { return calls_; }
  // The running strand's, [experts]; undefined for a call that the update does not have.
  at::Tensor row(std::int64_t call) const {
    if (call >= calls_) return {};
    return strands_.at(static_cast<std::size_t>(ops::strand()))[static_cast<std::size_t>(call / kRows)].select(0, call % kRows);
  }
  // Of all strands, [calls, experts], a copy; undefined where nothing counts.
  at::Tensor all() const {
    at::Tensor sum;
    for (const std::vector<at::Tensor>& parts : strands_) {
      const at::Tensor own = at::cat(parts).narrow(0, 0, calls_);
      sum = sum.defined() ? sum + own : own;
    }
    return sum;
  }

 private:
  static constexpr std::int64_t kRows = 64;
  std::vector<std::vector<at::Tensor>> strands_;
  std::int64_t calls_ = 0;
};

// What one call costs, for `plan` and for FLOP rates. A multiply-add is 2.
struct CallCost {
  double matmul_flops = 0;       // per token, forward, without attention scores
  double score_flops = 0;        // per token, forward, causal attention counted half
  double kv_elements = 0;        // of the compute type, kept per token while decoding: keys and values
  double state_elements = 0;     // fp32, kept per sequence while decoding, however long it is: a recurrent state
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
  std::int64_t block = 0;        // the block that is called; the model sets it
};

class Mixer : public Module {
 public:
  // h_ND: the residual stream [N, D]. Returns the contribution [N, D] to add to it, of the compute type; see CallContext::asked_A.
  virtual at::Tensor forward(const at::Tensor& h_ND, CallContext& call) = 0;
  // The norm that forward begins with, given call.normed_ND: the block can do it along with the addition before. Null: there is none.
  virtual const InputNormImpl* input_norm() const { return nullptr; }
  // Makes what forward looks up by depth, for plans of so many calls: a captured graph must not be the first to do so.
  virtual void prepare(std::int64_t /*calls*/) {}
  // Whether forward and backward may run on several threads at once, each with sequences of its own (ops/strands.h): they write nothing but
  // their result, gradients and call.loads_E, and draw nothing random.
  virtual bool runs_on_strands() const { return false; }
  virtual CallCost cost(const CallPlace& place) const = 0;
  // Whether it decodes several sequences in one go, by call.states. Else it is given one after the other.
  virtual bool decodes_together() const { return false; }
  // Its class in an export by code, without its name in the block.
  virtual ModelPart part() const { return {}; }
  // How many experts the mixer chooses among; 0: it is no such mixer.
  virtual std::int64_t experts() const { return 0; }
  // Moves what an update's expert loads move, where `updated` ([] bool, on the device) is true; elsewhere every bit stays. counts_E: int64,
  // summed over the calls of this mixer's block.
  virtual void balance(const at::Tensor& /*counts_E*/, const at::Tensor& /*updated*/) {}
};

}  // namespace meristem::nn
