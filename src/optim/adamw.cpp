#include "optim/adamw.h"

#include <cmath>

#include <fmt/format.h>

#include "core/errors.h"

namespace meristem {

AdamW::AdamW(FlatParameters& parameters, const OptimizerConfig& config, ops::Path path)
    : parameters_(parameters),
      settings_{config.betas.at(0), config.betas.at(1), config.eps, config.weight_decay},
      path_(path),
      exp_avg_(parameters.zeros_like_master()),
      exp_avg_sq_(parameters.zeros_like_master()),
      steps_(parameters.segments().size(), 0) {}

void AdamW::step(const at::Tensor& lr, const at::Tensor& grad_scale) {
  torch::NoGradGuard no_grad;
  if (grad_scale.is_cpu() && !std::isfinite(grad_scale.item<float>())) return;  // refused: the step counts stay, too
  for (std::size_t i = 0; i < steps_.size(); ++i) {
    const FlatSegment& segment = parameters_.segments()[i];
    ops::AdamwSettings settings = settings_;
    if (!segment.decay) settings.weight_decay = 0;
    const at::Tensor half = parameters_.half().defined() ? parameters_.slice(parameters_.half(), segment) : at::Tensor();
    ops::adamw_step({parameters_.slice(parameters_.master(), segment), parameters_.slice(parameters_.grad(), segment),
                     parameters_.slice(exp_avg_, segment), parameters_.slice(exp_avg_sq_, segment), half, ++steps_[i]},
                    lr, grad_scale, settings, path_);
  }
}

NamedTensors AdamW::state() const {
  NamedTensors out;
  for (const FlatEntry& entry : parameters_.entries()) {
    out.add("exp_avg." + entry.name, parameters_.view(exp_avg_, entry));
    out.add("exp_avg_sq." + entry.name, parameters_.view(exp_avg_sq_, entry));
  }
  for (std::size_t i = 0; i < steps_.size(); ++i) {
    out.add("step." + parameters_.segments()[i].name, torch::scalar_tensor(steps_[i], torch::kLong));
  }
  return out;
}

void AdamW::load_state(const NamedTensors& state) {
  torch::NoGradGuard no_grad;
  const NamedTensors own = this->state();
  for (const auto& [name, target] : own) {
    if (!state.contains(name)) throw DamagedError(fmt::format("optimizer state: tensor {} is missing", name));
    const at::Tensor& value = state.at(name);
    if (value.sizes() != target.sizes()) {
      throw DamagedError(fmt::format("optimizer state: tensor {} has shape {}, the model needs {}", name, c10::str(value.sizes()),
                                     c10::str(target.sizes())));
    }
    if (name.rfind("step.", 0) != 0) at::Tensor(target).copy_(value);
  }
  if (state.size() != own.size()) throw DamagedError(fmt::format("optimizer state: {} tensors, expected {}", state.size(), own.size()));
  for (std::size_t i = 0; i < steps_.size(); ++i) {
    steps_[i] = state.at("step." + parameters_.segments()[i].name).item<std::int64_t>();
    if (steps_[i] < 0) throw DamagedError(fmt::format("optimizer state: step.{} is {}", parameters_.segments()[i].name, steps_[i]));
  }
}

}  // namespace meristem
