// Spikes of loss and gradient norm against a robust threshold over the last steps: median + 6 x 1.4826 x median absolute deviation.
// The median ignores earlier spikes, which a mean and a standard deviation would absorb.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace meristem {

class SpikeDetector {
 public:
  static constexpr std::size_t kWindow = 128;  // steps remembered
  static constexpr std::size_t kMinimum = 32;  // steps before any verdict
  static constexpr double kDeviations = 6;

  SpikeDetector() = default;
  // A window saved in a checkpoint.
  SpikeDetector(std::vector<double> losses, std::vector<double> grad_norms);

  // Whether this step's values exceed the threshold that the steps before it set. Remembers them either way.
  bool observe(double loss, double grad_norm);

  const std::vector<double>& losses() const { return losses_; }
  const std::vector<double>& grad_norms() const { return grad_norms_; }

 private:
  std::vector<double> losses_, grad_norms_;
};

// median + kDeviations robust deviations of `values`; infinity while there are fewer than kMinimum.
double spike_threshold(const std::vector<double>& values);

}  // namespace meristem
