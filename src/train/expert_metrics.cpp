#include "train/expert_metrics.h"

#include <algorithm>

#include <torch/torch.h>

namespace meristem {
namespace {

double largest_over_mean(const at::Tensor& counts_E) {
  return counts_E.max().item<double>() / std::max(1e-300, counts_E.mean().item<double>());
}

double entropy_of(const at::Tensor& counts_E) {
  const at::Tensor share = counts_E / counts_E.sum().clamp_min(1);
  return -at::xlogy(share, share).sum().item<double>();
}

}  // namespace

ExpertMetrics expert_metrics(const nn::ExpertLoads& loads) {
  ExpertMetrics out;
  std::map<std::int64_t, at::Tensor> by_block;
  for (const auto& [depth, call] : loads.by_depth) {
    const at::Tensor counts_E = call.counts_E.to(at::kCPU, at::kDouble);
    out.load[std::to_string(depth)] = largest_over_mean(counts_E);
    out.entropy[std::to_string(depth)] = entropy_of(counts_E);
    at::Tensor& sum = by_block[call.block];
    sum = sum.defined() ? sum + counts_E : counts_E;
  }
  if (by_block.empty()) return out;
  for (const auto& [block, counts_E] : by_block) {
    out.load["all"] = std::max(out.load["all"], largest_over_mean(counts_E));
    out.entropy["all"] += entropy_of(counts_E) / static_cast<double>(by_block.size());
  }
  return out;
}

}  // namespace meristem
