#include "optim/optimizer.h"

#include <algorithm>

#include <fmt/format.h>
#include <torch/torch.h>

#include "core/errors.h"
#include "ops/muon.h"

namespace meristem {
namespace {

// What a rule keeps, by the prefixes of its names.
struct Kept {
  std::vector<std::string> moments;
  std::string count;
};

Kept kept_by(UpdateRule rule) {
  switch (rule) {
    case UpdateRule::kAdamw: return {{"exp_avg.", "exp_avg_sq."}, "step."};
    case UpdateRule::kMuon: return {{"momentum."}, ""};
  }
  TORCH_CHECK(false, "unknown update rule");
}

std::vector<UpdateRule> rules_of(const OptimizerConfig& config) {
  if (config.kind == OptimizerKind::kMuon) return {UpdateRule::kAdamw, UpdateRule::kMuon};
  return {UpdateRule::kAdamw};
}

// Calls moment(prefix's place, entry, name) and count(place in the rule's ranges, name) for all that a rule keeps.
template <class Moment, class Count>
void for_each_kept(UpdateRule rule, const std::vector<FlatEntry>& entries, const std::vector<FlatRange>& ranges, const Moment& moment,
                   const Count& count) {
  const Kept kept = kept_by(rule);
  for (const FlatEntry& entry : entries) {
    if (ranges[entry.range].rule != rule) continue;
    for (std::size_t m = 0; m < kept.moments.size(); ++m) moment(m, entry, kept.moments[m] + entry.name);
  }
  std::int64_t r = 0;
  for (const FlatRange& range : ranges) {
    if (range.rule == rule && !kept.count.empty()) count(r++, kept.count + range.name);
  }
}

}  // namespace

NamedTensors state_layout(const std::vector<ParameterInfo>& infos, const OptimizerConfig& config) {
  const FlatLayout layout = flat_layout(infos, config);
  const auto meta = torch::dtype(torch::kFloat).device(torch::kMeta);
  NamedTensors out;
  for (const UpdateRule rule : rules_of(config)) {
    for_each_kept(
        rule, layout.entries, layout.ranges,
        [&](std::size_t, const FlatEntry& entry, std::string name) { out.add(std::move(name), torch::empty(entry.shape, meta)); },
        [&](std::int64_t, std::string name) { out.add(std::move(name), torch::empty({}, meta.dtype(torch::kLong))); });
  }
  return out;
}

std::vector<std::string> state_prefixes(const OptimizerConfig& config) {
  std::vector<std::string> prefixes;
  for (const UpdateRule rule : rules_of(config)) {
    const Kept kept = kept_by(rule);
    prefixes.insert(prefixes.end(), kept.moments.begin(), kept.moments.end());
    if (!kept.count.empty()) prefixes.push_back(kept.count);
  }
  return prefixes;
}

double update_workspace(const std::vector<ParameterInfo>& infos, const OptimizerConfig& config) {
  const FlatLayout layout = flat_layout(infos, config);
  std::int64_t largest = 0;
  for (const FlatEntry& entry : layout.entries) {
    if (layout.ranges[entry.range].rule == UpdateRule::kMuon) largest = std::max(largest, entry.count);
  }
  return static_cast<double>(largest * ops::kMuonWorkspaceBytes);
}

OptimizerWork optimizer_work(const std::vector<ParameterInfo>& infos, const OptimizerConfig& config, bool half) {
  // Gradients are cleared and read once for the norm; AdamW reads and writes masters and both moments and reads gradients in one pass.
  constexpr double kOnce = 8, kAdamw = 28, kHalf = 2;
  // Muon is a chain of operators: momentum, where it counts, orthogonal update in bf16, scaled sum.
  constexpr double kMuon = 112;
  const FlatLayout layout = flat_layout(infos, config);
  OptimizerWork work;
  for (const FlatEntry& entry : layout.entries) {
    const auto count = static_cast<double>(entry.count);
    const bool muon = layout.ranges[entry.range].rule == UpdateRule::kMuon;
    const double bytes = count * (kOnce + (muon ? kMuon : kAdamw) + (half ? kHalf : 0));
    work.bytes += bytes;
    if (!muon) continue;
    double flops = 0;
    const auto columns = static_cast<double>(entry.shape.back());
    const double experts = count / (static_cast<double>(entry.shape[entry.shape.size() - 2]) * columns);
    for (const std::int64_t packed : entry.packed_rows.empty() ? MatrixRows{entry.shape[entry.shape.size() - 2]} : entry.packed_rows) {
      const double rows = static_cast<double>(packed), side = std::min(rows, columns), other = std::max(rows, columns);
      // A step of Newton-Schulz: the Gram matrix, its square, and their product with the matrix.
      flops += experts * static_cast<double>(config.muon->ns_steps) * (4 * side * side * other + 2 * side * side * side);
    }
    work.flops += flops;
    work.largest_bytes = std::max(work.largest_bytes, bytes);
    work.largest_flops = std::max(work.largest_flops, flops);
  }
  return work;
}

Optimizer::Optimizer(FlatParameters& parameters, const OptimizerConfig& config, ops::Path adamw)
    : parameters_(parameters), config_(config), adamw_path_(adamw) {
  const at::TensorOptions options = parameters.master().options();
  for (const UpdateRule rule : rules_of(config)) {
    Part part{rule, 0, 0, {}, {}, {}};
    for (const FlatRange& range : parameters.ranges()) {
      if (range.rule != rule) continue;
      if (part.ranges.empty()) part.offset = range.offset;
      part.ranges.push_back(range);
      part.ranges.back().offset -= part.offset;
      part.count = part.ranges.back().offset + range.count;
    }
    if (part.ranges.empty()) continue;
    const Kept kept = kept_by(rule);
    for (std::size_t m = 0; m < kept.moments.size(); ++m) part.moments.push_back(torch::zeros({part.count}, options));
    if (!kept.count.empty()) part.counts_R = torch::zeros({std::ssize(part.ranges)}, options.dtype(torch::kLong));
    parts_.push_back(std::move(part));
  }
}

void Optimizer::step(const at::Tensor& lr, const at::Tensor& grad_scale) {
  torch::NoGradGuard no_grad;
  for (Part& part : parts_) {
    switch (part.rule) {
      case UpdateRule::kAdamw: adamw_step(part, lr, grad_scale); break;
      case UpdateRule::kMuon: muon_step(part, lr, grad_scale); break;
    }
  }
}

void Optimizer::adamw_step(Part& part, const at::Tensor& lr, const at::Tensor& grad_scale) {
  std::vector<ops::AdamwRange> ranges;
  for (const FlatRange& range : part.ranges) ranges.push_back({range.offset, range.count, range.decay ? config_.weight_decay : 0});
  const at::Tensor half = parameters_.half().defined() ? slice(parameters_.half(), part) : at::Tensor();
  ops::adamw_step(
      {slice(parameters_.master(), part), slice(parameters_.grad(), part), part.moments.at(0), part.moments.at(1), half, part.counts_R},
      ranges, lr, grad_scale, {config_.betas.at(0), config_.betas.at(1), config_.eps}, adamw_path_);
}

void Optimizer::muon_step(Part& part, const at::Tensor& lr, const at::Tensor& grad_scale) {
  const MuonConfig& muon = *config_.muon;
  std::vector<ops::MuonParameter> matrices;
  for (const FlatEntry& entry : parameters_.entries()) {
    if (parameters_.ranges()[entry.range].rule != part.rule) continue;
    matrices.push_back({parameters_.view(parameters_.master(), entry), parameters_.view(parameters_.grad(), entry),
                        moment_of(part, 0, entry), entry.packed_rows});
  }
  const auto scale = muon.scale == MuonScale::kOriginal ? ops::MuonScale::kOriginal : ops::MuonScale::kMoonlight;
  ops::muon_step(matrices, muon.lr ? lr * (*muon.lr / config_.lr) : lr, grad_scale,
                 {muon.momentum, config_.weight_decay, muon.nesterov, muon.ns_steps, scale});
  if (parameters_.half().defined()) slice(parameters_.half(), part).copy_(slice(parameters_.master(), part));
}

at::Tensor Optimizer::moment_of(const Part& part, std::size_t moment, const FlatEntry& entry) const {
  return part.moments[moment].narrow(0, entry.offset - part.offset, entry.count).view(entry.shape);
}

NamedTensors Optimizer::state() const {
  NamedTensors out;
  for (const Part& part : parts_) {
    for_each_kept(
        part.rule, parameters_.entries(), parameters_.ranges(),
        [&](std::size_t m, const FlatEntry& entry, std::string name) { out.add(std::move(name), moment_of(part, m, entry)); },
        [&](std::int64_t r, std::string name) { out.add(std::move(name), part.counts_R[r]); });
  }
  return out;
}

void Optimizer::load_state(const NamedTensors& state) {
  torch::NoGradGuard no_grad;
  const NamedTensors own = this->state();
  for (const auto& [name, target] : own) {
    if (!state.contains(name)) throw DamagedError(fmt::format("optimizer state: tensor {} is missing", name));
    const at::Tensor& value = state.at(name);
    if (value.sizes() != target.sizes()) {
      throw DamagedError(fmt::format("optimizer state: tensor {} has shape {}, the model needs {}", name, c10::str(value.sizes()),
                                     c10::str(target.sizes())));
    }
    const bool is_count = target.scalar_type() == at::kLong;
    if (is_count && value.item<std::int64_t>() < 0) {
      throw DamagedError(fmt::format("optimizer state: {} is {}", name, value.item<std::int64_t>()));
    }
    at::Tensor(target).copy_(value);
  }
  if (state.size() != own.size()) throw DamagedError(fmt::format("optimizer state: {} tensors, expected {}", state.size(), own.size()));
}

}  // namespace meristem
