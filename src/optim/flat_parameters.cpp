#include "optim/flat_parameters.h"

#include <algorithm>
#include <map>

#include <fmt/format.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/torch.h>

#include "core/errors.h"
#include "ops/adamw.h"

namespace meristem {
namespace {

constexpr std::int64_t kAlign = 32;  // elements: 64 bytes in bf16, 128 in fp32

std::int64_t aligned(std::int64_t count) { return (count + kAlign - 1) / kAlign * kAlign; }

// "blocks.3.attention.qkv.weight" -> "blocks.3", "norm.weight" -> "norm".
std::string owner_of(const std::string& name) {
  const auto first = name.find('.');
  return name.rfind("blocks.", 0) == 0 ? name.substr(0, name.find('.', first + 1)) : name.substr(0, first);
}

// Name, rule and decay of the range that a parameter belongs to.
FlatRange range_of(const ParameterInfo& info, const OptimizerConfig& config) {
  const bool muon = config.kind == OptimizerKind::kMuon && info.role == Role::kLinear,
             decay = is_decayed(info.role, config.decay_embeddings);
  std::string name = owner_of(info.name);
  if (name.rfind("blocks.", 0) == 0) name += muon ? ".muon" : decay ? ".decay" : ".no_decay";
  return {name, muon ? UpdateRule::kMuon : UpdateRule::kAdamw, decay, 0, 0};
}

// Adds a bf16 gradient to its place in the flat fp32 buffer as soon as it is complete, and frees it.
class AddToFlat : public torch::autograd::PostAccumulateGradHook {
 public:
  explicit AddToFlat(at::Tensor target) : target_(std::move(target)) {}
  void operator()(const torch::autograd::Variable& parameter) override {
    torch::NoGradGuard no_grad;
    ops::accumulate_gradient(target_, parameter.grad());
    parameter.mutable_grad().reset();
  }

 private:
  at::Tensor target_;
};

}  // namespace

FlatLayout flat_layout(const std::vector<ParameterInfo>& infos, const OptimizerConfig& config) {
  FlatLayout layout;
  std::map<std::string, std::vector<const ParameterInfo*>> members;
  for (const ParameterInfo& info : infos) {
    const FlatRange range = range_of(info, config);
    std::vector<const ParameterInfo*>& same = members[range.name];
    if (same.empty()) layout.ranges.push_back(range);
    same.push_back(&info);
  }
  std::stable_sort(layout.ranges.begin(), layout.ranges.end(), [](const FlatRange& a, const FlatRange& b) { return a.rule < b.rule; });
  for (std::size_t r = 0; r < layout.ranges.size(); ++r) {
    FlatRange& range = layout.ranges[r];
    range.offset = layout.count;
    for (const ParameterInfo* info : members.at(range.name)) {
      layout.entries.push_back({info->name, info->tensor.sizes().vec(), layout.count, info->tensor.numel(), r, info->packed_rows});
      layout.count += aligned(info->tensor.numel());
    }
    range.count = layout.count - range.offset;
  }
  return layout;
}

FlatParameters::FlatParameters(const std::vector<ParameterInfo>& infos, at::ScalarType compute, const OptimizerConfig& config)
    : layout_(flat_layout(infos, config)) {
  torch::NoGradGuard no_grad;
  const auto options = torch::dtype(torch::kFloat).device(infos.front().tensor.device());
  master_ = torch::zeros({layout_.count}, options);
  grad_ = torch::zeros({layout_.count}, options);
  if (compute == torch::kBFloat16) half_ = torch::zeros({layout_.count}, options.dtype(torch::kBFloat16));
  bind(infos);
}

void FlatParameters::bind(const std::vector<ParameterInfo>& infos) {
  std::map<std::string, const FlatEntry*> by_name;
  for (const FlatEntry& entry : layout_.entries) by_name[entry.name] = &entry;
  for (const auto& info : infos) {
    const FlatEntry& entry = *by_name.at(info.name);
    at::Tensor parameter = info.tensor;
    const bool in_half = half_.defined() && !stays_fp32(info.role);
    view(master_, entry).copy_(parameter);
    if (in_half) view(half_, entry).copy_(parameter);
    parameter.set_data(view(in_half ? half_ : master_, entry));
    if (in_half) {
      torch::autograd::impl::set_post_acc_grad_hooks(parameter, std::make_unique<AddToFlat>(view(grad_, entry)));
    } else {
      parameter.mutable_grad() = view(grad_, entry);  // autograd adds in place
    }
  }
}

at::Tensor FlatParameters::view(const at::Tensor& flat, const FlatEntry& entry) const {
  return flat.narrow(0, entry.offset, entry.count).view(entry.shape);
}

void FlatParameters::zero_grad() { grad_.zero_(); }

NamedTensors FlatParameters::masters() const {
  NamedTensors out;
  for (const FlatEntry& entry : layout_.entries) out.add(entry.name, view(master_, entry));
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
    view(master_, entry).copy_(value);
  }
  if (values.size() != layout_.entries.size()) {
    throw DamagedError(fmt::format("weights: {} tensors, the model has {}", values.size(), layout_.entries.size()));
  }
  refresh_half();
}

void FlatParameters::refresh_half() {
  torch::NoGradGuard no_grad;
  if (half_.defined()) half_.copy_(master_);
}

}  // namespace meristem
