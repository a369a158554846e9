// The layers that everything else is made of: a linear map, RMSNorm with its gain, the output head.
#pragma once

#include <numeric>
#include <utility>

#include "config/model_config.h"
#include "nn/module.h"
#include "ops/cross_entropy.h"
#include "ops/few_rows.h"
#include "ops/linear.h"
#include "ops/rms_norm.h"

namespace meristem::nn {

// y = x W^T, + b where it has a bias
class LinearImpl : public Module {
 public:
  // weight: [out, in], Normal(0, init_std).
  LinearImpl(std::int64_t in, std::int64_t out, double init_std, const Placement& placement, Role role = Role::kLinear)
      : LinearImpl(in, MatrixRows{out}, init_std, placement, role) {}
  // Several maps of one input in one weight, given by their outputs.
  LinearImpl(std::int64_t in, const MatrixRows& outs, double init_std, const Placement& placement, Role role = Role::kLinear)
      : path_(placement.linear) {
    const std::int64_t out = std::accumulate(outs.begin(), outs.end(), std::int64_t{0});
    weight_ = add_parameter("weight", {out, in}, role, init_std, placement, outs);
  }
  // Gives it a bias, [out], which starts at zero.
  void add_bias(const Placement& placement) { bias_ = add_parameter("bias", {weight_.size(0)}, Role::kBias, 0, placement); }
  // A mixer's last map, whose product is the mixer's contribution: what `growth.inserted: silent` sets to zero.
  void end_mixer() {
    mark_ends_mixer("weight");
    if (bias_.defined()) mark_ends_mixer("bias");
  }
  // x: [N, in] of the weight's type -> [N, out].
  at::Tensor forward(const at::Tensor& x) const { return ops::linear(x, weight_, bias_, path_); }
  const at::Tensor& weight() const { return weight_; }

 private:
  at::Tensor weight_, bias_;
  ops::Path path_;
};
TORCH_MODULE(Linear);

class RmsNormImpl : public Module {
 public:
  RmsNormImpl(std::int64_t width, double eps, const Placement& placement, ops::Path path)
      : eps_(eps), compute_(placement.compute), path_(path) {
    weight_ = add_parameter("weight", {width}, Role::kNorm, 0, placement);
  }
  // x: [..., width]; the result is of type `compute` whatever the type of x.
  at::Tensor forward(const at::Tensor& x) const { return ops::rms_norm(x, weight_, eps_, path_).to(compute_); }
  // forward(x + update), for x and update of one type.
  at::Tensor forward_sum(const at::Tensor& x, const at::Tensor& update) const {
    return ops::add_rms_norm(x, update, weight_, eps_, path_).normed.to(compute_);
  }
  const at::Tensor& weight() const { return weight_; }
  double eps() const { return eps_; }

 private:
  at::Tensor weight_;
  double eps_;
  at::ScalarType compute_;
  ops::Path path_;
};
TORCH_MODULE(RmsNorm);

// What a mixer reads of the residual stream: normed, unless the block norms what the mixer returns instead (`norm: post`).
class InputNormImpl : public Module {
 public:
  InputNormImpl(const ModelConfig& config, const Placement& placement, const ops::Paths& paths)
      : width_(config.width), eps_(config.norm_eps), compute_(placement.compute), path_(paths.rms_norm) {
    if (norms_inputs(config.norm)) weight_ = add_parameter("weight", {width_}, Role::kNorm, 0, placement);
  }
  // h_ND: [..., width]; the result is of type `compute` whatever the type of h.
  at::Tensor forward(const at::Tensor& h_ND) const {
    return (weight_.defined() ? ops::rms_norm(h_ND, weight_, eps_, path_) : h_ND).to(compute_);
  }
  // ready: the result, where the block has it already (forward_sum); it is taken.
  at::Tensor forward(const at::Tensor& h_ND, at::Tensor& ready) const {
    return ready.defined() ? std::exchange(ready, at::Tensor()) : forward(h_ND);
  }
  bool norms() const { return weight_.defined(); }
  // h + update, of one type, and forward of it; in one pass where the path has one. Only where it norms.
  ops::AddedNorm forward_sum(const at::Tensor& h_ND, const at::Tensor& update_ND) const {
    const ops::AddedNorm both = ops::add_rms_norm(h_ND, update_ND, weight_, eps_, path_);
    return {both.sum, both.normed.to(compute_)};
  }
  // Elements kept per token for backward beside the input.
  double saved_elements() const { return weight_.defined() ? static_cast<double>(width_) : 0; }

 private:
  at::Tensor weight_;  // undefined with `norm: post`
  std::int64_t width_;
  double eps_;
  at::ScalarType compute_;
  ops::Path path_;
};
TORCH_MODULE(InputNorm);

// The output head: from normed hidden states to logits and to the loss. Its weight [V, D] is its own or the embedding's.
using LossSums = ops::CrossEntropy;

// Cross-entropy sums over the targets (negative: none); the logits of the whole batch are never held (ops/cross_entropy.h).
inline LossSums head_loss(const at::Tensor& h_ND, const at::Tensor& weight_VD, const at::Tensor& targets_N, double logit_cap,
                          const ops::Paths& paths) {
  return ops::linear_cross_entropy(h_ND, weight_VD, targets_N, paths.cross_entropy, logit_cap, paths.linear);
}

// [N, V] of the compute type.
inline at::Tensor head_logits(const at::Tensor& h_ND, const at::Tensor& weight_VD, double logit_cap) {
  const at::Tensor logits = ops::linear(h_ND, weight_VD, {}, ops::Path::kLibrary);
  return logit_cap > 0 ? (logits / logit_cap).tanh() * logit_cap : logits;
}

// Forward, per token.
inline double head_flops(std::int64_t vocab, std::int64_t width) { return 2.0 * static_cast<double>(vocab) * static_cast<double>(width); }

// Tokens whose logits head_loss holds at once.
inline std::int64_t head_chunk(std::int64_t vocab, std::int64_t width) { return ops::cross_entropy_chunk(vocab, width); }

}  // namespace meristem::nn
