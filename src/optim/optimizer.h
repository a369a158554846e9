// The optimizer of a run over FlatParameters. The rest of the house knows no update rule: it asks what is kept (names, shapes, bytes),
// hands learning rate and gradient scale in, and moves state by name. Rules live in ops/ (adamw.h, muon.h); flat_layout says which
// parameters follow which rule, optimizer.cpp what each rule keeps. docs/optimizers.md has the formulas.
//   moments  PREFIX.PARAMETER  float32, of the parameter's shape
//   counts   PREFIX.RANGE      int64 scalars: the updates that a range has had
#pragma once

#include <string>
#include <vector>

#include "config/run_config.h"
#include "core/named_tensors.h"
#include "ops/adamw.h"
#include "optim/flat_parameters.h"

namespace meristem {

// The state of a model's optimizer as tensors without storage, in the order of Optimizer::state(): no model and no optimizer is needed.
NamedTensors state_layout(const std::vector<ParameterInfo>& infos, const OptimizerConfig& config);

// Bytes that an update takes beside state, weights and gradients while it runs.
double update_workspace(const std::vector<ParameterInfo>& infos, const OptimizerConfig& config);

// What an update does with complete gradients. `bytes` pass through memory, `flops` are Muon's matrix products; `largest_*` is the part of
// a parameter that one owner updates alone, a matrix of Muon's.
struct OptimizerWork {
  double bytes = 0, flops = 0, largest_bytes = 0, largest_flops = 0;
};
// half: weights have a bf16 copy.
OptimizerWork optimizer_work(const std::vector<ParameterInfo>& infos, const OptimizerConfig& config, bool half);

// The prefixes of all that is kept, "exp_avg." for example. A fresh state is all zeros.
std::vector<std::string> state_prefixes(const OptimizerConfig& config);

class Optimizer {
 public:
  // adamw: the path of AdamW's update (kernels.adamw). `parameters` must outlive it.
  Optimizer(FlatParameters& parameters, const OptimizerConfig& config, ops::Path adamw);

  // One update with gradients grad() * grad_scale; grad() may be written to. lr: what optimizer.lr comes to in this update; a rule with a
  // peak of its own takes it in proportion. lr and grad_scale: float32 scalars on the parameters' device. An update whose grad_scale is not
  // finite is refused: weights, moments and counts keep their bits. Asynchronous on a GPU, but for the path `reference`.
  void step(const at::Tensor& lr, const at::Tensor& grad_scale);

  // Views: a later step changes them.
  NamedTensors state() const;
  // Copies values in by name. DamagedError where a name is missing, unknown, or of another shape, and for a negative count.
  void load_state(const NamedTensors& state);

 private:
  // A rule, the stretch of the flat buffers that follows it, and what it keeps there.
  struct Part {
    UpdateRule rule;
    std::int64_t offset = 0, count = 0;  // elements
    std::vector<FlatRange> ranges;       // offsets from the part's
    std::vector<at::Tensor> moments;     // flat, in the order of the rule's declaration
    at::Tensor counts_R;                 // int64, by range
  };
  at::Tensor slice(const at::Tensor& flat, const Part& part) const { return flat.narrow(0, part.offset, part.count); }
  void adamw_step(Part& part, const at::Tensor& lr, const at::Tensor& grad_scale);
  void muon_step(Part& part, const at::Tensor& lr, const at::Tensor& grad_scale);
  at::Tensor moment_of(const Part& part, std::size_t moment, const FlatEntry& entry) const;

  FlatParameters& parameters_;
  OptimizerConfig config_;
  ops::Path adamw_path_;
  std::vector<Part> parts_;
};

}  // namespace meristem
