#include "train/step.h"

#include <cmath>
#include <limits>

#include <fmt/format.h>
#include <torch/torch.h>

#include "core/errors.h"
#include "core/text.h"
#include "ops/adamw.h"
#include "train/batches.h"

namespace meristem {
namespace {

// Loss sums of a step, on the device until the step reads them once.
struct LossSums {
  at::Tensor total;              // [] float64
  at::Tensor by_source;          // [sources] float64
  std::vector<std::int64_t> targets_by_source;
  std::int64_t targets = 0;

  LossSums(std::size_t sources, at::Device device)
      : total(torch::zeros({}, torch::dtype(torch::kDouble).device(device))),
        by_source(torch::zeros({static_cast<std::int64_t>(sources)}, torch::dtype(torch::kDouble).device(device))),
        targets_by_source(sources, 0) {}

  void add(const HostBatch& host, const nn::LossSums& loss) {
    const at::Tensor by_row = loss.losses_N.to(torch::kDouble).view({host.sequences, host.length}).sum(1);
    total += by_row.sum();
    const at::Tensor source = torch::tensor(host.source, torch::kInt).to(by_row.device(), torch::kLong);
    by_source.index_add_(0, source, by_row);
    for (std::int64_t row = 0; row < host.sequences; ++row) {
      std::int64_t count = 0;
      for (std::int64_t t = 0; t < host.length; ++t) count += host.targets[static_cast<std::size_t>(row * host.length + t)] >= 0;
      targets_by_source[static_cast<std::size_t>(host.source[static_cast<std::size_t>(row)])] += count;
      targets += count;
    }
  }
};

void refuse_non_finite(std::int64_t step, double loss, double grad_norm) {
  if (std::isfinite(loss) && std::isfinite(grad_norm)) return;
  throw NonFiniteError(fmt::format("step {}: {} is {}; stopped before the update, weights are those of step {}", step,
                                   std::isfinite(loss) ? "the gradient norm" : "the loss", number_text(std::isfinite(loss) ? grad_norm : loss),
                                   step - 1));
}

// Has the model record its residual stream while it lives; the numbers stay on the device until values() reads them at once.
class StreamRecording {
 public:
  StreamRecording(Model& model, bool on) : model_(model) { model_.record_stream(on ? &rms_ : nullptr); }
  ~StreamRecording() { stop(); }
  StreamRecording(const StreamRecording&) = delete;
  StreamRecording& operator=(const StreamRecording&) = delete;

  void stop() { model_.record_stream(nullptr); }
  std::vector<double> values() const {
    if (rms_.empty()) return {};
    const at::Tensor host = torch::stack(rms_).to(torch::kDouble).cpu();
    return {host.data_ptr<double>(), host.data_ptr<double>() + host.numel()};
  }

 private:
  Model& model_;
  std::vector<at::Tensor> rms_;
};

}  // namespace

StepResult train_step(LiveModel& live, const OptimizerConfig& config, at::Device device, std::size_t num_sources, const NextBatch& next,
                      const StepInput& input, SpikeDetector& spikes) {
  // 1. Forward and backward; losses and gradients are sums, so micro-batches add up.
  live.parameters().zero_grad();
  LossSums sums(num_sources, device);
  StreamRecording stream(live.model(), input.record_stream);
  for (std::int64_t micro = 0; micro < input.micro_batches; ++micro) {
    const HostBatch host = next(input.micro_sequences);
    const nn::LossSums loss = live.model().loss(to_device(host, device), input.plan);
    loss.loss_sum.backward();
    sums.add(host, loss);
    stream.stop();  // one micro-batch tells enough
  }

  // 2. One division by the number of targets; nothing non-finite passes.
  const double targets = std::max<double>(1, static_cast<double>(sums.targets));
  StepResult result;
  result.targets = sums.targets;
  result.stream_rms = stream.values();
  result.loss = sums.total.item<double>() / targets;
  result.grad_norm = ops::gradient_norm(live.parameters().grad(), live.paths().adamw).item<double>() / targets;
  refuse_non_finite(input.number, result.loss, result.grad_norm);

  // 3. Clip and step: the division and the clip factor are one scalar that the update multiplies gradients with.
  result.spike = spikes.observe(result.loss, result.grad_norm);
  result.skipped = result.spike && config.skip_spikes;
  if (!result.skipped) {
    const double clip = config.clip_norm > 0 ? std::min(1.0, config.clip_norm / (result.grad_norm + 1e-6)) : 1.0;
    const auto scalar = torch::dtype(torch::kFloat).device(device);
    live.optimizer().step(torch::scalar_tensor(input.learning_rate, scalar), torch::scalar_tensor(clip / targets, scalar));
  }
  live.model().after_step(!result.skipped);

  const at::Tensor by_source = sums.by_source.cpu();
  for (std::size_t s = 0; s < num_sources; ++s) {
    const std::int64_t count = sums.targets_by_source[s];
    result.loss_by_source.push_back(count > 0 ? by_source[static_cast<std::int64_t>(s)].item<double>() / static_cast<double>(count)
                                              : std::numeric_limits<double>::quiet_NaN());
  }
  return result;
}

}  // namespace meristem
