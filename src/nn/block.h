// A block: its mixers in order, each added to the residual stream. `norm: pre` leaves the sum as it is; `norm: post` norms what a mixer
// returns before it is added (OLMo 2; such mixers read the stream as it is, see InputNorm), `norm: both` too (Gemma 2); `norm: sandwich`
// norms the sum after each addition (Geiping et al., 2025), which bounds the residual stream however often the block is called.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "config/run_config.h"
#include "nn/layers.h"
#include "nn/mixer.h"

namespace meristem::nn {

class BlockImpl : public Module {
 public:
  // Mixers by name ("attention", "feed_forward"), in the order in which they run. The name is part of the parameters' names.
  BlockImpl(const ModelConfig& config, const Placement& placement, const ops::Paths& paths,
            std::vector<std::pair<std::string, std::shared_ptr<Mixer>>> mixers);
  // h_ND -> h_ND, of the residual type; where the call asks for some rows alone, either those or all.
  at::Tensor forward(at::Tensor h_ND, CallContext& call);
  // As Mixer has it, of the first mixer.
  const InputNormImpl* input_norm() const { return mixers_.front()->input_norm(); }
  void prepare(std::int64_t calls);  // as Mixer has it, of all mixers
  CallCost cost(const CallPlace& place) const;
  std::vector<ModelPart> parts() const;  // its mixers, in order
  // As Mixer has them, of all mixers.
  bool runs_on_strands() const;
  std::int64_t experts() const;
  void balance(const at::Tensor& counts_E, const at::Tensor& updated);

 private:
  // h + update, what mixer i returned; where the next mixer, of this call or of the next, begins with a norm, that is worked out with the
  // sum.
  at::Tensor added(std::size_t i, const at::Tensor& h_ND, const at::Tensor& update_ND, CallContext& call) const;
  at::Tensor decode_one_by_one(Mixer& mixer, const at::Tensor& h_ND, const CallContext& call) const;

  std::vector<std::shared_ptr<Mixer>> mixers_;
  std::vector<std::string> names_;  // of the mixers
  std::vector<RmsNorm> norms_;      // one a mixer where the norm is `post` or `both`, of its output, or `sandwich`, of the sum
  Norm norm_;
  std::int64_t width_;
};
TORCH_MODULE(Block);

}  // namespace meristem::nn
