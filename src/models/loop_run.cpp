#include "models/loop_run.h"

#include <algorithm>

#include <fmt/format.h>

#include "core/errors.h"

namespace meristem {

LoopRun::LoopRun(const LoopConfig& config, const DepthPlan& plan, const nn::Linear& adapter)
    : injection_(config.injection), adapter_(adapter) {
  if (plan.loop()) {
    span_ = *plan.loop();
    if (config.backprop_last) first_learning_ = std::max<std::int64_t>(0, span_.repeats - *config.backprop_last);
  } else if (injection_ != "none") {
    throw InputError(
        fmt::format("depth plan {}: this model injects into its loop (model.loop.injection: {}); write that loop as one group, "
                    "such as (0-3)x2, with x1 where it runs once",
                    plan.print(), injection_));
  }
}

bool LoopRun::learns(std::int64_t r) const { return span_.length == 0 || !span_.holds(r) || span_.repeat_of(r) >= first_learning_; }

at::Tensor LoopRun::input(const at::Tensor& h_ND, std::int64_t r) {
  if (injection_ == "none" || !span_.begins_repeat(r)) return h_ND;
  const bool first = r == span_.start;
  if (first) first_input_ND_ = h_ND;
  if (injection_ == "add") return first ? h_ND : h_ND + first_input_ND_;
  const at::Tensor both = at::cat({h_ND, first_input_ND_}, 1);
  return adapter_->forward(both.to(adapter_->weight().scalar_type())).to(h_ND.scalar_type());
}

}  // namespace meristem
