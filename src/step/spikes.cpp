#include "step/spikes.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace meristem {
namespace {

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

void remember(std::vector<double>& window, double value) {
  if (window.size() == SpikeDetector::kWindow) window.erase(window.begin());
  window.push_back(value);
}

}  // namespace

double spike_threshold(const std::vector<double>& values) {
  if (values.size() < SpikeDetector::kMinimum) return std::numeric_limits<double>::infinity();
  const double center = median(values);
  std::vector<double> deviations;
  deviations.reserve(values.size());
  for (const double value : values) deviations.push_back(std::abs(value - center));
  // A flat window has no deviation; a thousandth of its level keeps rounding noise from being called a spike.
  const double deviation = std::max(1.4826 * median(std::move(deviations)), 1e-3 * std::abs(center));
  return center + SpikeDetector::kDeviations * deviation;
}

SpikeDetector::SpikeDetector(std::vector<double> losses, std::vector<double> grad_norms)
    : losses_(std::move(losses)), grad_norms_(std::move(grad_norms)) {}

bool SpikeDetector::observe(double loss, double grad_norm) {
  const bool spike = loss > spike_threshold(losses_) || grad_norm > spike_threshold(grad_norms_);
  remember(losses_, loss);
  remember(grad_norms_, grad_norm);
  return spike;
}

}  // namespace meristem
