#include "optim/optimizer.h"

#include <algorithm>
#include <map>

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

ElementWork update_work(const FlatEntry& entry, UpdateRule rule, const OptimizerConfig& config, bool half) {
  // Gradients are cleared, and read once for the norm.
  ElementWork work{8.0 + (half ? 2 : 0), 0};
  if (rule == UpdateRule::kAdamw) {
    work.bytes += 28;  // one pass: gradient read, master and both moments read and written
    return work;
  }
  work.bytes += 112;  // a chain of operators: momentum, what counts of it, the orthogonal update in bf16, the scaled sum
  const std::int64_t rows = entry.shape[entry.shape.size() - 2], columns = entry.shape.back();
  double multiplications = 0;
  for (const std::int64_t packed : entry.packed_rows.empty() ? MatrixRows{rows} : entry.packed_rows) {
    multiplications += newton_schulz_work(1, packed, columns);
  }
  work.flops = 2 * static_cast<double>(config.muon->ns_steps) * multiplications / static_cast<double>(rows * columns);
  return work;
}

Optimizer::Optimizer(FlatParameters& parameters, const OptimizerConfig& config, ops::Path adamw, const std::vector<FlatPiece>& own)
    : parameters_(parameters), config_(config), adamw_path_(adamw), keeps_all_(own.empty()) {
  for (const UpdateRule rule : rules_of(config)) {
    parts_.push_back(make_part(rule, own));
    const std::size_t part = parts_.size() - 1;
    std::map<std::string, std::size_t> range_of, entry_of;
    for (std::size_t r = 0; r < parameters.ranges().size(); ++r) range_of[parameters.ranges()[r].name] = r;
    for (std::size_t e = 0; e < parameters.entries().size(); ++e) entry_of[parameters.entries()[e].name] = e;
    const std::string count_prefix = kept_by(rule).count;
    for_each_kept(
        rule, parameters.entries(), parameters.ranges(),
        [&](std::size_t m, const FlatEntry& entry, std::string name) {
          places_.emplace_back(std::move(name), Place{part, m, entry_of.at(entry.name), 0, false});
        },
        [&](std::int64_t, const std::string& name) {
          places_.emplace_back(name, Place{part, 0, 0, range_of.at(name.substr(count_prefix.size())), true});
        });
  }
}

Optimizer::Part Optimizer::make_part(UpdateRule rule, const std::vector<FlatPiece>& own) const {
  const std::vector<FlatRange>& ranges = parameters_.ranges();
  std::vector<FlatPiece> pieces = own;
  if (keeps_all_) {  // the whole of the rule's ranges, which stand side by side
    for (const FlatRange& range : ranges) {
      if (range.rule != rule) continue;
      if (pieces.empty()) pieces.push_back({range.offset, 0, 0});
      pieces.back().count = range.offset + range.count - pieces.back().offset;
    }
  }
  Part part{rule, {}, {}, {}};
  std::int64_t kept = 0, counts = 0;
  for (const FlatPiece& piece : pieces) {
    Stretch stretch{piece.offset, piece.count, kept, {}, counts};
    for (FlatRange range : ranges) {
      const std::int64_t begin = std::max(range.offset, piece.offset),
                         end = std::min(range.offset + range.count, piece.offset + piece.count);
      if (range.rule != rule || begin >= end) continue;
      range.offset = begin - piece.offset;
      range.count = end - begin;
      stretch.ranges.push_back(range);
    }
    if (stretch.ranges.empty()) continue;
    kept += stretch.count;
    counts += std::ssize(stretch.ranges);
    part.stretches.push_back(std::move(stretch));
  }
  const at::TensorOptions options = parameters_.grad().options();
  for (std::size_t m = 0; m < kept_by(rule).moments.size(); ++m) part.moments.push_back(torch::zeros({kept}, options));
  if (!kept_by(rule).count.empty()) part.counts_R = torch::zeros({counts}, options.dtype(torch::kLong));
  return part;
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
  std::vector<ops::AdamwRange> ranges;  // as counts_R has them
  for (const Stretch& stretch : part.stretches) {
    for (const FlatRange& range : stretch.ranges) {
      const std::int64_t begin = stretch.offset + range.offset;
      ranges.push_back({begin, parameters_.kept_at(begin, range.count), stretch.kept_at + range.offset, range.count,
                        range.decay ? config_.weight_decay : 0});
    }
  }
  if (ranges.empty()) return;  // a rank may own nothing of a rule
  ops::adamw_step(
      {parameters_.kept_masters(), parameters_.grad(), part.moments.at(0), part.moments.at(1), parameters_.half(), part.counts_R}, ranges,
      lr, grad_scale, {config_.betas.at(0), config_.betas.at(1), config_.eps}, adamw_path_);
}

// Calls action(offset in the entry, elements, offset in the moments) for all that is kept here of an entry.
template <class Action>
void Optimizer::for_each_overlap(const Place& place, const Action& action) const {
  const FlatEntry& entry = parameters_.entries()[place.entry];
  for (const Stretch& stretch : parts_[place.part].stretches) {
    const std::int64_t begin = std::max(entry.offset, stretch.offset),
                       end = std::min(entry.offset + entry.count, stretch.offset + stretch.count);
    if (begin < end) action(begin - entry.offset, end - begin, stretch.kept_at + begin - stretch.offset);
  }
}

void Optimizer::muon_step(Part& part, const at::Tensor& lr, const at::Tensor& grad_scale) {
  const MuonConfig& muon = *config_.muon;
  const std::size_t index = static_cast<std::size_t>(&part - parts_.data());
  std::vector<ops::MuonParameter> matrices;
  for (std::size_t e = 0; e < parameters_.entries().size(); ++e) {
    const FlatEntry& entry = parameters_.entries()[e];
    if (parameters_.ranges()[entry.range].rule != part.rule) continue;
    for_each_overlap({index, 0, e}, [&](std::int64_t offset, std::int64_t count, std::int64_t kept_at) {
      std::vector<std::int64_t> shape = entry.shape;  // whole matrices: all, or some experts
      if (count < entry.count) shape[0] = count / (shape[1] * shape[2]);
      const auto flat = [&](const at::Tensor& x) { return x.narrow(0, entry.offset + offset, count).view(shape); };
      matrices.push_back({parameters_.master(entry.offset + offset, count).view(shape), flat(parameters_.grad()),
                          part.moments[0].narrow(0, kept_at, count).view(shape), entry.packed_rows});
    });
  }
  const auto scale = muon.scale == MuonScale::kOriginal ? ops::MuonScale::kOriginal : ops::MuonScale::kMoonlight;
  ops::muon_step(matrices, muon.lr ? lr * (*muon.lr / config_.lr) : lr, grad_scale,
                 {muon.momentum, config_.weight_decay, muon.nesterov, muon.ns_steps, scale});
  if (!parameters_.half().defined()) return;
  for (const Stretch& stretch : part.stretches) {
    parameters_.half().narrow(0, stretch.offset, stretch.count).copy_(parameters_.master(stretch.offset, stretch.count));
  }
}

std::vector<std::string> Optimizer::names() const {
  std::vector<std::string> names;
  for (const auto& [name, place] : places_) names.push_back(name);
  return names;
}

std::vector<std::int64_t> Optimizer::shape_of(const Place& place) const {
  return place.is_count ? std::vector<std::int64_t>{} : parameters_.entries()[place.entry].shape;
}

at::Tensor Optimizer::kept(const std::string& name) const {
  torch::NoGradGuard no_grad;
  const auto found = std::find_if(places_.begin(), places_.end(), [&](const auto& place) { return place.first == name; });
  TORCH_CHECK(found != places_.end(), "the optimizer keeps nothing called ", name);
  const Place& place = found->second;
  const Part& part = parts_[place.part];
  if (place.is_count) {
    const FlatRange& range = parameters_.ranges()[place.range];
    for (const Stretch& stretch : part.stretches) {
      for (std::size_t r = 0; r < stretch.ranges.size(); ++r) {  // a range that several ranks have is counted by all, and told by the first
        if (stretch.offset + stretch.ranges[r].offset == range.offset)
          return part.counts_R[stretch.counts_at + static_cast<std::int64_t>(r)];
      }
    }
    return torch::zeros({}, part.counts_R.options());
  }
  const at::Tensor& moments = part.moments[place.moment];
  if (keeps_all_) {
    at::Tensor view;
    for_each_overlap(place, [&](std::int64_t, std::int64_t count, std::int64_t at) { view = moments.narrow(0, at, count); });
    return view.view(shape_of(place));
  }
  const at::Tensor whole = torch::zeros(shape_of(place), moments.options());
  for_each_overlap(place, [&](std::int64_t offset, std::int64_t count, std::int64_t at) {
    whole.view({-1}).narrow(0, offset, count).copy_(moments.narrow(0, at, count));
  });
  return whole;
}

NamedTensors Optimizer::state() const {
  NamedTensors out;
  for (const auto& [name, place] : places_) out.add(name, kept(name));
  return out;
}

void Optimizer::load_state(const NamedTensors& state) {
  torch::NoGradGuard no_grad;
  for (const auto& [name, place] : places_) {
    if (!state.contains(name)) throw DamagedError(fmt::format("optimizer state: tensor {} is missing", name));
    const at::Tensor& value = state.at(name);
    if (value.sizes() != at::IntArrayRef(shape_of(place))) {
      throw DamagedError(fmt::format("optimizer state: tensor {} has shape {}, the model needs {}", name, c10::str(value.sizes()),
                                     c10::str(at::IntArrayRef(shape_of(place)))));
    }
    if (place.is_count && value.item<std::int64_t>() < 0) {
      throw DamagedError(fmt::format("optimizer state: {} is {}", name, value.item<std::int64_t>()));
    }
  }
  if (state.size() != places_.size()) {
    throw DamagedError(fmt::format("optimizer state: {} tensors, expected {}", state.size(), places_.size()));
  }
  for (const auto& [name, place] : places_) load(place, state.at(name));
}

void Optimizer::load(const Place& place, const at::Tensor& value) {
  Part& part = parts_[place.part];
  if (!place.is_count) {
    const at::Tensor flat = value.reshape({-1});
    for_each_overlap(place, [&](std::int64_t offset, std::int64_t count, std::int64_t at) {
      part.moments[place.moment].narrow(0, at, count).copy_(flat.narrow(0, offset, count));
    });
    return;
  }
  const std::string& range = parameters_.ranges()[place.range].name;
  for (const Stretch& stretch : part.stretches) {
    for (std::size_t r = 0; r < stretch.ranges.size(); ++r) {
      if (stretch.ranges[r].name == range) part.counts_R[stretch.counts_at + static_cast<std::int64_t>(r)].copy_(value);
    }
  }
}

}  // namespace meristem
