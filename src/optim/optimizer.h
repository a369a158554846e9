// The optimizer of a run over FlatParameters. The rest of the house knows no update rule: it asks what is kept (names, shapes, bytes),
// hands learning rate and gradient scale in, and moves state by name. Rules live in ops/ (adamw.h, muon.h); flat_layout says which
// parameters follow which rule, optimizer.cpp what each rule keeps. docs/optimizers.md has the formulas.
//   moments  PREFIX.PARAMETER  float32, of the parameter's shape
//   counts   PREFIX.RANGE      int64 scalars: the updates that a range has had
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "config/run_config.h"
#include "core/named_tensors.h"
#include "ops/adamw.h"
#include "optim/buckets.h"
#include "optim/flat_parameters.h"

namespace meristem {

// The state of a model's optimizer as tensors without storage, in the order of Optimizer::state(): no model and no optimizer is needed.
NamedTensors state_layout(const std::vector<ParameterInfo>& infos, const OptimizerConfig& config);

// Bytes that an update takes beside state, weights and gradients while it runs.
double update_workspace(const std::vector<ParameterInfo>& infos, const OptimizerConfig& config);

// What an update does for each element of a parameter once gradients are complete: bytes that pass through memory, and Muon's FLOPs.
// half: weights have a bf16 copy.
struct ElementWork {
  double bytes = 0, flops = 0;
};
ElementWork update_work(const FlatEntry& entry, UpdateRule rule, const OptimizerConfig& config, bool half);

// The prefixes of all that is kept, "exp_avg." for example. A fresh state is all zeros.
std::vector<std::string> state_prefixes(const OptimizerConfig& config);

class Optimizer {
 public:
  // adamw: the path of AdamW's update (kernels.adamw). own: the stretches of the flat buffers that this rank keeps state for and updates,
  // whole pieces of buckets_of; none: all of them. `parameters` must outlive it.
  Optimizer(FlatParameters& parameters, const OptimizerConfig& config, ops::Path adamw, const std::vector<FlatPiece>& own = {});

  // One update with gradients grad() * grad_scale; grad() may be written to. lr: what optimizer.lr comes to in this update; a rule with a
  // peak of its own takes it in proportion. lr and grad_scale: float32 scalars on the parameters' device. An update whose grad_scale is not
  // finite is refused: weights, moments and counts keep their bits. Asynchronous on a GPU, but for the path `reference`.
  void step(const at::Tensor& lr, const at::Tensor& grad_scale);

  // All that is kept, by name. Views, which a later step changes, where this rank keeps everything; else copies of whole shape with zeros
  // where another rank has the value, so that the sum over ranks is the state.
  std::vector<std::string> names() const;
  at::Tensor kept(const std::string& name) const;
  NamedTensors state() const;
  // Copies values in by name, of each what this rank keeps. DamagedError where a name is missing, unknown, or of another shape, and for a
  // negative count.
  void load_state(const NamedTensors& state);

 private:
  // A stretch of the flat buffers and where what is kept of it begins in the moments. It has some ranges, whole or in part.
  struct Stretch {
    std::int64_t offset = 0, count = 0, kept_at = 0;  // elements
    std::vector<FlatRange> ranges;                    // offsets from the stretch's
    std::int64_t counts_at = 0;                       // the first range's place in counts_R
  };
  // A rule, what of the flat buffers follows it here, and what it keeps of that.
  struct Part {
    UpdateRule rule;
    std::vector<Stretch> stretches;
    std::vector<at::Tensor> moments;  // flat, in the order of the rule's declaration
    at::Tensor counts_R;              // int64, by range of each stretch
  };
  // Where a name's value is: a moment of an entry, or the count of a range.
  struct Place {
    std::size_t part = 0, moment = 0, entry = 0, range = 0;
    bool is_count = false;
  };

  Part make_part(UpdateRule rule, const std::vector<FlatPiece>& own) const;
  void adamw_step(Part& part, const at::Tensor& lr, const at::Tensor& grad_scale);
  void muon_step(Part& part, const at::Tensor& lr, const at::Tensor& grad_scale);
  template <class Action>
  void for_each_overlap(const Place& place, const Action& action) const;
  std::vector<std::int64_t> shape_of(const Place& place) const;
  void load(const Place& place, const at::Tensor& value);

  FlatParameters& parameters_;
  OptimizerConfig config_;
  ops::Path adamw_path_;
  bool keeps_all_;
  std::vector<Part> parts_;
  std::vector<std::pair<std::string, Place>> places_;
};

}  // namespace meristem
