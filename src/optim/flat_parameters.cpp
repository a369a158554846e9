#include "optim/flat_parameters.h"

#include <algorithm>
#include <map>

#include <fmt/format.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/graph_task.h>
#include <torch/torch.h>

#include "core/errors.h"
#include "ops/adamw.h"
#include "ops/strands.h"

namespace meristem {
namespace {

std::int64_t aligned(std::int64_t count, std::int64_t unit = kFlatAlign) { return (count + unit - 1) / unit * unit; }

// "blocks.3.attention.qkv.weight" -> "blocks.3", "norm.weight" -> "norm".
std::string owner_of(const std::string& name) {
  const auto first = name.find('.');
  return name.rfind("blocks.", 0) == 0 ? name.substr(0, name.find('.', first + 1)) : name.substr(0, first);
}

std::int64_t part_of(const std::string& name) {
  const std::string owner = owner_of(name);
  if (owner == "norm" || owner == "head") return kLastPart;
  return owner.rfind("blocks.", 0) == 0 ? std::stoll(owner.substr(std::string("blocks.").size())) : kFirstPart;
}

// Name, rule and decay of the range that a parameter belongs to.
FlatRange range_of(const ParameterInfo& info, const OptimizerConfig& config) {
  const bool muon = config.kind == OptimizerKind::kMuon && info.role == Role::kLinear,
             decay = is_decayed(info.role, config.decay_embeddings);
  std::string name = owner_of(info.name);
  if (name.rfind("blocks.", 0) == 0) name += muon ? ".muon" : decay ? ".decay" : ".no_decay";
  return {name, muon ? UpdateRule::kMuon : UpdateRule::kAdamw, decay, 0, 0};
}

using Told = std::shared_ptr<std::function<void(std::size_t)>>;

// Runs once a parameter's gradient is complete: autograd has summed what its calls handed on, which is added to its place in the flat fp32
// buffer and goes no further. Undefined where all of them have added theirs by themselves (ops::gradient_sum).
class GradientHook : public torch::autograd::FunctionPreHook {
 public:
  GradientHook(at::Tensor target, std::size_t entry, Told told) : target_(std::move(target)), entry_(entry), told_(std::move(told)) {}
  torch::autograd::variable_list operator()(const torch::autograd::variable_list& grads) override {
    // A call that runs again asks for gradients of its own: they are to be summed with those of other calls.
    const auto* asked_for = torch::autograd::get_current_graph_task_exec_info();
    if (asked_for != nullptr && !asked_for->empty()) return grads;
    if (grads.at(0).defined()) {
      torch::NoGradGuard no_grad;
      at::Tensor sum = ops::of_strand(target_);
      ops::accumulate_gradient(sum, grads[0]);
    }
    if (*told_) (*told_)(entry_);
    return {at::Tensor()};
  }

 private:
  at::Tensor target_;
  std::size_t entry_;
  Told told_;
};

}  // namespace

FlatLayout flat_layout(const std::vector<ParameterInfo>& infos, const OptimizerConfig& config, int ranks) {
  FlatLayout layout;
  std::map<std::string, std::vector<std::size_t>> members;  // places in infos
  for (std::size_t i = 0; i < infos.size(); ++i) {
    const FlatRange range = range_of(infos[i], config);
    std::vector<std::size_t>& same = members[range.name];
    if (same.empty()) layout.ranges.push_back(range);
    same.push_back(i);
  }
  std::stable_sort(layout.ranges.begin(), layout.ranges.end(), [](const FlatRange& a, const FlatRange& b) { return a.rule < b.rule; });
  for (std::size_t r = 0; r < layout.ranges.size(); ++r) {
    FlatRange& range = layout.ranges[r];
    range.offset = layout.count;
    for (const std::size_t i : members.at(range.name)) {
      const ParameterInfo& info = infos[i];
      layout.entries.push_back({info.name, info.tensor.sizes().vec(), layout.count, info.tensor.numel(), r, info.packed_rows, i,
                                part_of(info.name), stays_fp32(info.role), info.role != Role::kBalance});
      layout.count += aligned(info.tensor.numel());
    }
    range.count = layout.count - range.offset;
    const bool last_of_rule = r + 1 == layout.ranges.size() || layout.ranges[r + 1].rule != range.rule;
    if (last_of_rule) layout.count = aligned(layout.count, ranks * kFlatAlign);
  }
  return layout;
}

FlatParameters::FlatParameters(const std::vector<ParameterInfo>& infos, at::ScalarType compute, const OptimizerConfig& config, int ranks,
                               const std::vector<FlatPiece>& owned)
    : layout_(flat_layout(infos, config, ranks)), told_(std::make_shared<std::function<void(std::size_t)>>()) {
  torch::NoGradGuard no_grad;
  const auto options = torch::dtype(torch::kFloat).device(infos.front().tensor.device());
  strands_ = {torch::zeros({layout_.count}, options)};
  if (compute == torch::kBFloat16) half_ = torch::zeros({layout_.count}, options.dtype(torch::kBFloat16));
  keep(owned);
  master_ = torch::zeros({kept_.back().at + kept_.back().count}, options);
  bind(infos);
}

void FlatParameters::keep(const std::vector<FlatPiece>& owned) {
  if (owned.empty() || !half_.defined()) {
    kept_ = {{0, layout_.count, 0}};
    return;
  }
  std::vector<Kept> stretches;
  for (const FlatPiece& piece : owned) stretches.push_back({piece.offset, piece.count, 0});
  for (const FlatEntry& entry : layout_.entries) {
    if (entry.stays_fp32) stretches.push_back({entry.offset, aligned(entry.count), 0});
  }
  std::sort(stretches.begin(), stretches.end(), [](const Kept& a, const Kept& b) { return a.offset < b.offset; });
  for (const Kept& next : stretches) {
    if (kept_.empty() || kept_.back().offset + kept_.back().count < next.offset) {
      kept_.push_back({next.offset, next.count, kept_.empty() ? 0 : kept_.back().at + kept_.back().count});
    } else {
      kept_.back().count = std::max(kept_.back().count, next.offset + next.count - kept_.back().offset);
    }
  }
}

const at::Tensor& FlatParameters::master() const {
  TORCH_CHECK(kept_.front().count == layout_.count, "this rank keeps the masters of its own pieces alone");
  return master_;
}

std::int64_t FlatParameters::kept_at(std::int64_t offset, std::int64_t count) const {
  const auto after =
      std::upper_bound(kept_.begin(), kept_.end(), offset, [](std::int64_t at, const Kept& kept) { return at < kept.offset; });
  TORCH_CHECK(after != kept_.begin() && offset + count <= std::prev(after)->offset + std::prev(after)->count, "masters of elements ",
              offset, " to ", offset + count, " are not kept here");
  return std::prev(after)->at + offset - std::prev(after)->offset;
}

void FlatParameters::each_kept(const FlatEntry& entry, const std::function<void(std::int64_t, const at::Tensor&)>& action) const {
  for (const Kept& kept : kept_) {
    const std::int64_t begin = std::max(entry.offset, kept.offset), end = std::min(entry.offset + entry.count, kept.offset + kept.count);
    if (begin < end) action(begin - entry.offset, master(begin, end - begin));
  }
}

// value: of the entry's shape.
void FlatParameters::set(const FlatEntry& entry, const at::Tensor& value) {
  each_kept(entry,
            [&](std::int64_t offset, const at::Tensor& masters) { masters.copy_(value.reshape({-1}).narrow(0, offset, masters.numel())); });
  if (half_.defined()) view(half_, entry).copy_(value);
}

void FlatParameters::bind(const std::vector<ParameterInfo>& infos) {
  for (std::size_t e = 0; e < layout_.entries.size(); ++e) {
    const FlatEntry& entry = layout_.entries[e];
    at::Tensor parameter = infos[entry.place].tensor;
    const bool in_half = half_.defined() && !entry.stays_fp32;
    set(entry, parameter);
    parameter.set_data(in_half ? view(half_, entry) : master(entry));
    parameter.mutable_grad() = view(grad(), entry);  // in fp32, whatever the parameter's type
    if (!parameter.requires_grad()) continue;
    torch::autograd::impl::clear_hooks(parameter);
    torch::autograd::impl::add_hook(parameter, std::make_unique<GradientHook>(view(grad(), entry), e, told_));
  }
}

at::Tensor FlatParameters::view(const at::Tensor& flat, const FlatEntry& entry) const {
  return flat.narrow(0, entry.offset, entry.count).view(entry.shape);
}

void FlatParameters::zero_grad(std::int64_t strands) {
  grad().zero_();
  if (!joined_) {  // the last update did not come to its end
    for (std::size_t s = 1; s < strands_.size(); ++s) strands_[s].zero_();
  }
  while (std::ssize(strands_) > strands) strands_.pop_back();
  while (std::ssize(strands_) < strands) strands_.push_back(torch::zeros_like(grad()));
  joined_ = strands == 1;
}

void FlatParameters::join_strands() {
  ops::join_strands(strands_);
  joined_ = true;
}

void FlatParameters::on_gradient(std::function<void(std::size_t)> told) { *told_ = std::move(told); }

NamedTensors FlatParameters::masters() const {
  NamedTensors out;
  for (const FlatEntry& entry : layout_.entries) out.add(entry.name, view(master(), entry));
  return out;
}

void FlatParameters::load_masters(const NamedTensors& values) {
  torch::NoGradGuard no_grad;
  for (const FlatEntry& entry : layout_.entries) {
    if (!values.contains(entry.name)) throw DamagedError(fmt::format("weights: tensor {} is missing", entry.name));
    const at::Tensor& value = values.at(entry.name);
    if (value.sizes().vec() != entry.shape) {
      throw DamagedError(fmt::format("weights: tensor {} has shape {}, the model needs {}", entry.name, c10::str(value.sizes()),
                                     c10::str(at::IntArrayRef(entry.shape))));
    }
    set(entry, value);
  }
  if (values.size() != layout_.entries.size()) {
    throw DamagedError(fmt::format("weights: {} tensors, the model has {}", values.size(), layout_.entries.size()));
  }
}

}  // namespace meristem
