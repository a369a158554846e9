#include "train/step.h"

#include <cmath>

#include <fmt/format.h>
#include <torch/torch.h>

#include "core/errors.h"
#include "core/text.h"
#include "ops/adamw.h"
#include "train/batches.h"
#include "train/step_losses.h"

namespace meristem {
namespace {

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

void refuse_non_finite(std::int64_t step, double loss, double grad_norm) {
  if (std::isfinite(loss) && std::isfinite(grad_norm)) return;
  throw NonFiniteError(fmt::format("step {}: {} is {}; stopped before the update, weights are those of step {}", step,
                                   std::isfinite(loss) ? "the gradient norm" : "the loss",
                                   number_text(std::isfinite(loss) ? grad_norm : loss), step - 1));
}

StepResult train_step(LiveModel& live, const OptimizerConfig& config, at::Device device, std::size_t num_sources, const NextBatch& next,
                      const StepInput& input, SpikeDetector& spikes) {
  // 1. Forward and backward; losses and gradients are sums, so micro-batches add up.
  live.parameters().zero_grad();
  StepLosses sums(num_sources, device);
  StreamRecording stream(live.model(), input.record_stream);
  for (std::int64_t micro = 0; micro < input.micro_batches; ++micro) {
    const HostBatch host = next(input.micro_sequences);
    const nn::LossSums loss = live.model().loss(to_device(host, device), input.plan);
    loss.loss_sum.backward();
    sums.add(loss.losses_N, torch::tensor(host.source, torch::kInt).to(device, torch::kLong));
    sums.count(host);
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

  result.targets_by_source = sums.targets_by_source;
  const at::Tensor by_source = sums.by_source.cpu();
  result.loss_by_source = loss_by_source(by_source.data_ptr<double>(), sums.targets_by_source);
  return result;
}

}  // namespace meristem
