#include "train/graph_step.h"

#include <algorithm>
#include <limits>
#include <utility>

#include <fmt/format.h>
#include <torch/torch.h>

#include "core/errors.h"
#include "ops/adamw.h"

namespace meristem {

GraphStep::GraphStep(LiveModel& live, const RunConfig& config, GraphDevice device)
    : live_(live),
      config_(config.optimizer),
      experts_(config.model.feed_forward.kind == "experts" ? config.model.feed_forward.count : 0),
      device_(device.device),
      inputs_(std::move(device.copies), device_),
      graphs_(std::move(device.capture)),
      sums_(config.data.sources.size(), device_),
      stopped_(torch::zeros({}, torch::dtype(torch::kBool).device(device_))),
      stream_rms_(torch::zeros({DepthPlan::kMaxCalls + 1}, torch::dtype(torch::kDouble).device(device_))) {}

void GraphStep::queue(const NextBatch& next, const StepInput& input) {
  live_.parameters().zero_grad();
  sums_.clear();
  begin_loads(input.plan);
  for (std::int64_t micro = 0; micro < input.micro_batches; ++micro) {
    const HostBatch host = next(input.micro_sequences);
    sums_.count(host);
    run_micro_batch(inputs_.load(host), input.plan, input.record_stream && micro == 0);  // one micro-batch tells enough
  }
  update(input);
}

void GraphStep::run_micro_batch(const StaticInputs& inputs, const DepthPlan& plan, bool record) {
  graphs_.run({plan.calls(), inputs.shape, record}, [this, &inputs, plan, record] { forward_backward(inputs, plan, record); });
}

// Everything here is fixed in a graph but the contents of buffers that live outside of it.
void GraphStep::forward_backward(const StaticInputs& inputs, const DepthPlan& plan, bool record) {
  Model& model = live_.model();
  std::vector<at::Tensor> rms;
  model.record_stream(record ? &rms : nullptr);
  const nn::LossSums loss = model.loss(inputs.batch, plan);
  model.record_stream(nullptr);
  loss.loss_sum.backward();
  sums_.add(loss.losses_N, inputs.source_S.to(torch::kLong));
  if (record) stream_rms_.narrow(0, 0, static_cast<std::int64_t>(rms.size())).copy_(torch::stack(rms));
  const nn::ExpertLoads loads = std::exchange(model.pending_loads(), {});
  for (const auto& [depth, call] : loads.by_depth) counts_.at(static_cast<std::size_t>(depth)).add_(call.counts_E);
}

// Zeroes the counts of this plan's calls. A depth's tensor stays the same for good: graphs of other plans add to it too.
void GraphStep::begin_loads(const DepthPlan& plan) {
  if (experts_ == 0) return;
  while (std::ssize(counts_) < plan.num_calls()) counts_.push_back(torch::empty({experts_}, torch::dtype(torch::kLong).device(device_)));
  for (at::Tensor& counts_E : counts_) counts_E.zero_();
}

void GraphStep::end_loads(const DepthPlan& plan) {
  if (experts_ == 0) return;
  nn::ExpertLoads& loads = live_.model().pending_loads();
  for (std::int64_t r = 0; r < plan.num_calls(); ++r) {
    const auto place = static_cast<std::size_t>(r);
    loads.add(r, plan.calls()[place], counts_[place].clone());  // what a run logs of this update outlives the next one
  }
}

// As train_step has it, with device scalars in place of its numbers; in double, so that the clip factor has the same bits.
void GraphStep::update(const StepInput& input) {
  const double targets = std::max<double>(1, static_cast<double>(sums_.targets));
  const at::Tensor loss = sums_.total / targets;
  const at::Tensor norm = ops::gradient_norm(live_.parameters().grad(), live_.paths().adamw).to(torch::kDouble) / targets;
  stopped_.logical_or_(loss.isfinite().logical_and(norm.isfinite()).logical_not());
  at::Tensor scale = torch::full({}, 1 / targets, norm.options());
  if (config_.clip_norm > 0) scale = (config_.clip_norm / (norm + 1e-6)).clamp_max(1.0) / targets;
  scale = scale.masked_fill(stopped_, std::numeric_limits<double>::quiet_NaN()).to(torch::kFloat);
  live_.optimizer().step(torch::full({}, input.learning_rate, scale.options()), scale);
  end_loads(input.plan);
  live_.model().after_step(true);
  queued_.push_back({input.number, input.plan, input.record_stream, sums_.targets, sums_.targets_by_source,
                     torch::cat({loss.view(1), norm.view(1), sums_.by_source})});
}

std::vector<StepResult> GraphStep::finish(SpikeDetector& spikes) {
  if (queued_.empty()) return {};
  std::vector<at::Tensor> rows;
  for (const Queued& update : queued_) rows.push_back(update.numbers);
  const at::Tensor numbers = torch::stack(rows).cpu();
  std::vector<StepResult> results;
  const std::vector<Queued> updates = std::exchange(queued_, {});
  for (std::size_t i = 0; i < updates.size(); ++i) {
    results.push_back(result_of(updates[i], numbers[static_cast<std::int64_t>(i)].data_ptr<double>(), spikes));
  }
  if (updates.back().records_stream) {
    const at::Tensor rms = stream_rms_.narrow(0, 0, updates.back().plan.num_calls() + 1).cpu();
    results.back().stream_rms.assign(rms.data_ptr<double>(), rms.data_ptr<double>() + rms.numel());
  }
  return results;
}

StepResult GraphStep::result_of(const Queued& update, const double* numbers, SpikeDetector& spikes) const {
  StepResult result;
  result.loss = numbers[0];
  result.grad_norm = numbers[1];
  refuse_non_finite(update.number, result.loss, result.grad_norm);
  result.spike = spikes.observe(result.loss, result.grad_norm);
  result.targets = update.targets;
  result.targets_by_source = update.targets_by_source;
  result.loss_by_source = loss_by_source(numbers + 2, update.targets_by_source);
  return result;
}

std::string why_no_graph(const RunConfig& config, at::Device device, const ops::Paths& paths) {
  if (!device.is_cuda()) return "this run computes on the CPU";
  if (config.optimizer.skip_spikes) return "optimizer.skip_spikes decides on the host before each update";
  if (config.data.document_mask && paths.attention != ops::Path::kFused) return "data.document_mask needs kernels.attention: fused";
  if (config.data.document_mask && config.model.depth_attention && config.model.depth_attention->kind == "joint") {
    return "data.document_mask with model.depth_attention.kind: joint runs document by document";
  }
  if (config.model.feed_forward.kind == "experts" && paths.experts != ops::Path::kFused) return "experts need kernels.experts: fused";
  if (paths.adamw == ops::Path::kReference) return "kernels.adamw: reference waits for the host";
  return "";
}

bool uses_graph(const RunConfig& config, at::Device device, const ops::Paths& paths, const ops::CudaKernels& kernels) {
  const std::string& asked = config.kernels.graph;
  if (asked == "off") return false;
  const std::string reason = why_no_graph(config, device, paths);
  if (asked == "on" && !reason.empty()) throw InputError(fmt::format("kernels.graph: on cannot run: {}; allowed: off, auto", reason));
  return reason.empty() && (asked == "on" || kernels.proven("graph"));
}

}  // namespace meristem
