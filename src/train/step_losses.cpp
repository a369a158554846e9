#include "train/step_losses.h"

#include <limits>

#include <torch/torch.h>

namespace meristem {

StepLosses::StepLosses(std::size_t sources, at::Device device)
    : total(torch::zeros({}, torch::dtype(torch::kDouble).device(device))),
      by_source(torch::zeros({static_cast<std::int64_t>(sources)}, torch::dtype(torch::kDouble).device(device))),
      targets_by_source(sources, 0) {}

void StepLosses::add(const at::Tensor& losses_N, const at::Tensor& source_S) {
  const at::Tensor by_row = losses_N.to(torch::kDouble).view({source_S.size(0), -1}).sum(1);
  total += by_row.sum();
  by_source.index_add_(0, source_S, by_row);
}

void StepLosses::count(const HostBatch& host) {
  for (std::int64_t row = 0; row < host.sequences; ++row) {
    std::int64_t in_row = 0;
    for (std::int64_t t = 0; t < host.length; ++t) in_row += host.targets[static_cast<std::size_t>(row * host.length + t)] >= 0;
    targets_by_source[static_cast<std::size_t>(host.source[static_cast<std::size_t>(row)])] += in_row;
    targets += in_row;
  }
}

void StepLosses::clear() {
  total.zero_();
  by_source.zero_();
  targets_by_source.assign(targets_by_source.size(), 0);
  targets = 0;
}

std::vector<double> loss_by_source(const double* sums, const std::vector<std::int64_t>& targets_by_source) {
  std::vector<double> losses;
  for (std::size_t s = 0; s < targets_by_source.size(); ++s) {
    const std::int64_t count = targets_by_source[s];
    losses.push_back(count > 0 ? sums[s] / static_cast<double>(count) : std::numeric_limits<double>::quiet_NaN());
  }
  return losses;
}

}  // namespace meristem
