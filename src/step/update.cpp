#include "step/update.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include <fmt/format.h>
#include <torch/torch.h>

#include "core/clock.h"
#include "core/errors.h"
#include "core/text.h"
#include "models/costs.h"
#include "ops/adamw.h"
#include "ops/strands.h"

namespace meristem {
namespace {

const auto kSums = torch::dtype(torch::kDouble);

void refuse_non_finite(std::int64_t number, double loss, double grad_norm) {
  if (std::isfinite(loss) && std::isfinite(grad_norm)) return;
  throw NonFiniteError(fmt::format("step {}: {} is {}; stopped before the update, weights are those of step {}", number,
                                   std::isfinite(loss) ? "the gradient norm" : "the loss",
                                   number_text(std::isfinite(loss) ? grad_norm : loss), number - 1));
}

std::vector<double> host_values(const at::Tensor& values) {
  const at::Tensor host = values.cpu();
  return {host.data_ptr<double>(), host.data_ptr<double>() + host.numel()};
}

}  // namespace

UpdateSums::UpdateSums(std::size_t sources, at::Device device)
    : vector_(torch::zeros({2 + 2 * static_cast<std::int64_t>(sources)}, kSums.device(device))),
      by_source_(vector_.narrow(0, 2, 2 * static_cast<std::int64_t>(sources)).view({2, -1})) {}

void UpdateSums::add(const at::Tensor& losses_N, const at::Tensor& targets_N, const at::Tensor& source_S) {
  const at::Tensor source = source_S.to(torch::kLong);
  const at::Tensor loss_S = losses_N.to(torch::kDouble).view({source.size(0), -1}).sum(1);
  const at::Tensor targets_S = targets_N.ge(0).view({source.size(0), -1}).sum(1, /*keepdim=*/false, torch::kDouble);
  loss() += loss_S.sum();
  targets() += targets_S.sum();
  by_source_[0].index_add_(0, source, loss_S);
  by_source_[1].index_add_(0, source, targets_S);
}

Updater::Updater(LiveModel& live, const RunConfig& config, SpikeDetector& spikes, std::optional<GraphDevice> graphs)
    : live_(live),
      config_(config),
      spikes_(spikes),
      device_(live.parameters().grad().device()),
      sums_(std::max<std::size_t>(config.data.sources.size(), 1), device_),
      stopped_(torch::zeros({}, torch::dtype(torch::kBool).device(device_))),
      stream_rms_(torch::zeros({DepthPlan::kMaxCalls + 1}, kSums.device(device_))) {
  if (live.ranks().several()) {
    replicas_ = std::make_unique<ReplicaSync>(live.parameters(), live.ranks(), config.parallel);
    live.model().before_reading([this](std::int64_t part) { replicas_->await_weights(part); });
  }
  if (!graphs) return;
  inputs_ = std::make_unique<InputPipeline>(std::move(graphs->copies), device_);
  graphs_ = std::make_unique<GraphCache>(std::move(graphs->capture));
}

Updater::~Updater() { live_.model().before_reading({}); }

void Updater::queue(const NextBatch& next, const UpdateInput& input) {
  const double begin = seconds_now(), waited = live_.ranks().seconds_waited();
  const std::int64_t strands = strands_for(input.micro_sequences);
  live_.parameters().zero_grad(strands);
  live_.model().begin_update(input.plan, strands);
  sums_.clear();
  std::int64_t real_tokens = 0;
  for (std::int64_t micro = 0; micro < input.micro_batches; ++micro) {
    const HostBatch host = next(input.micro_sequences);
    real_tokens += host.real_tokens;
    micro_batch(host, input.plan, input.record_stream && micro == 0, micro + 1 == input.micro_batches);  // one micro-batch tells enough
  }
  live_.parameters().join_strands();
  const Reduced all = reduced(input.stop_asked, real_tokens, seconds_now() - begin - (live_.ranks().seconds_waited() - waited));

  // Losses and gradients are sums: one division by the targets of all. Device scalars throughout, in float64 as a host would compute them.
  const at::Tensor targets = sums_.targets().clamp_min(1);
  const at::Tensor loss = sums_.loss() / targets;
  const at::Tensor norm = (all.squares.defined() ? all.squares.sqrt() : own_norm()) / targets;
  const at::Tensor counts = counted(loss, norm);
  const at::Tensor scale = gradient_scale(norm, targets, counts);
  live_.optimizer().step(torch::full({}, input.learning_rate, scale.options()), scale);
  live_.model().after_step(counts, all.loads);
  if (replicas_) replicas_->gather_weights();  // the last to write weights
  queued_.push_back({input, torch::cat({torch::stack({loss, norm, counts.to(torch::kDouble)}), sums_.vector(), all.of_ranks}),
                     live_.ranks().seconds_waited() - waited, real_tokens});
}

at::Tensor Updater::own_norm() const { return ops::gradient_norm(live_.parameters().grad(), live_.paths().adamw).to(torch::kDouble); }

std::int64_t Updater::strands_for(std::int64_t micro_sequences) const {
  if (!device_.is_cpu() || graphs_) return 1;
  if (!live_.ranks().several()) return strands_of(config_, live_.model(), micro_sequences, at::get_num_threads());
  if (config_.parallel.threads == ThreadWork::kSequences) {
    throw InputError(
        "parallel.threads: found sequences; allowed: auto or operators, since with several ranks gradients travel as one "
        "thread makes them");
  }
  return 1;
}

// The one thing that differs between plain and captured micro-batches.
void Updater::micro_batch(const HostBatch& host, const DepthPlan& plan, bool record, bool last) {
  if (replicas_ && last) replicas_->arm();
  if (!graphs_ || (replicas_ && last))
    return forward_backward(shares_of(host, std::ssize(live_.parameters().strand_gradients()), device_), plan, record);
  if (replicas_) await_weights();  // a graph waits for nothing but its stream
  const StaticInputs& buffers = inputs_->load(host);
  graphs_->run({plan.calls(), buffers.shape, record, plan.loop()},
               [this, &buffers, plan, record] { forward_backward({buffers.inputs}, plan, record); });
}

// Each strand has a share. In a graph, everything here is fixed but the contents of buffers that live outside of it.
void Updater::forward_backward(const std::vector<DeviceBatch>& shares, const DepthPlan& plan, bool record) {
  Model& model = live_.model();
  StreamRms rms(std::ssize(shares));
  std::vector<at::Tensor> losses_N(shares.size());
  {
    const Observing observing(model, record ? &rms : nullptr);
    ops::on_strands(live_.parameters().strand_gradients(), [&](std::int64_t strand) {
      const auto s = static_cast<std::size_t>(strand);
      const nn::LossSums loss = model.loss(shares[s].batch, plan);
      loss.loss_sum.backward();
      losses_N[s] = loss.losses_N;
    });
  }
  for (std::size_t s = 0; s < shares.size(); ++s) sums_.add(losses_N[s], shares[s].batch.targets_N, shares[s].source_S);
  if (!record) return;
  const std::vector<at::Tensor> values = rms.values();
  stream_rms_.narrow(0, 0, std::ssize(values)).copy_(torch::stack(values));
}

// Gradients, sums and expert loads become those of all ranks. One rank has them already.
Updater::Reduced Updater::reduced(bool stop_asked, std::int64_t real_tokens, double seconds) {
  const at::Tensor loads = live_.model().expert_counts();
  const at::TensorOptions options = sums_.vector().options();
  if (!replicas_) return {{}, loads, torch::empty({0}, options)};
  replicas_->finish_gradients();
  const int ranks = live_.ranks().size();
  std::vector<double> own(2 + static_cast<std::size_t>(ranks));
  own[0] = stop_asked ? 1 : 0;
  own[1] = static_cast<double>(real_tokens);
  own[2 + static_cast<std::size_t>(live_.ranks().rank())] = seconds;
  const at::Tensor flat_loads = loads.defined() ? loads.flatten().to(torch::kDouble) : torch::empty({0}, options),
                   of_ranks = torch::tensor(own, torch::kDouble).to(device_, /*non_blocking=*/true),
                   squares = replicas_->own_squares(live_.paths().adamw).view({1});
  const at::Tensor all = torch::cat({sums_.vector(), flat_loads, of_ranks, squares});
  live_.ranks().sum(all).wait();
  const std::vector<at::Tensor> parts = all.split_with_sizes({sums_.vector().numel(), flat_loads.numel(), of_ranks.numel(), 1});
  sums_.vector().copy_(parts[0]);
  return {parts[3].squeeze(0), loads.defined() ? parts[1].to(torch::kLong).view_as(loads) : loads, parts[2]};
}

void Updater::await_weights() {
  if (replicas_) replicas_->await_weights();
}

void Updater::check_replicas() {
  if (!replicas_) return;
  const std::string difference = replicas_->difference();
  if (!difference.empty()) throw SystemError(difference + ": the ranks no longer train one model; go on from the last checkpoint");
}

// [] bool: whether the update changes anything. The same on all ranks, since it follows from what they have added up.
at::Tensor Updater::counted(const at::Tensor& loss, const at::Tensor& norm) {
  stopped_.logical_or_(loss.isfinite().logical_and(norm.isfinite()).logical_not());
  const at::Tensor goes_on = stopped_.logical_not();
  if (!config_.optimizer.skip_spikes) return goes_on;
  TORCH_CHECK(queued_.empty(), "what counts as a spike follows from the updates before this one: read their results first");
  const at::Tensor spike = loss.gt(spike_threshold(spikes_.losses())).logical_or(norm.gt(spike_threshold(spikes_.grad_norms())));
  return goes_on.logical_and(spike.logical_not());
}

// min(1, clip / norm) / targets, which the optimizer multiplies gradients with; NaN, which it refuses, where the update does not count.
at::Tensor Updater::gradient_scale(const at::Tensor& norm, const at::Tensor& targets, const at::Tensor& counts) const {
  const at::Tensor clip =
      config_.optimizer.clip_norm > 0 ? (config_.optimizer.clip_norm / (norm + 1e-6)).clamp_max(1.0) : torch::ones_like(norm);
  return (clip / targets).masked_fill(counts.logical_not(), std::numeric_limits<double>::quiet_NaN()).to(torch::kFloat);
}

std::vector<UpdateResult> Updater::finish() {
  if (queued_.empty()) return {};
  std::vector<at::Tensor> rows;
  for (const Queued& update : queued_) rows.push_back(update.numbers);
  const at::Tensor numbers = torch::stack(rows).cpu();
  const std::vector<Queued> updates = std::exchange(queued_, {});
  std::vector<UpdateResult> results;
  for (std::size_t i = 0; i < updates.size(); ++i) {
    results.push_back(result_of(updates[i], numbers[static_cast<std::int64_t>(i)].data_ptr<double>()));
  }
  if (const UpdateInput& last = updates.back().input; last.record_stream) {
    results.back().stream_rms = host_values(stream_rms_.narrow(0, 0, last.plan.num_calls() + 1));
  }
  return results;
}

UpdateResult Updater::run(const NextBatch& next, const UpdateInput& input) {
  queue(next, input);
  return finish().at(0);
}

UpdateResult Updater::result_of(const Queued& update, const double* numbers) {
  UpdateResult result;
  result.loss = numbers[0];
  result.grad_norm = numbers[1];
  refuse_non_finite(update.input.number, result.loss, result.grad_norm);
  result.spike = spikes_.observe(result.loss, result.grad_norm);
  result.skipped = numbers[2] == 0;
  const double* sums = numbers + 3;
  result.targets = static_cast<std::int64_t>(sums[1]);
  const auto sources = static_cast<std::size_t>(sums_.vector().numel() - 2) / 2;
  result.seconds_waited = update.seconds_waited;
  result.real_tokens = update.real_tokens;
  if (replicas_) {
    const double* of_ranks = sums + 2 + 2 * sources;
    result.stop_asked = of_ranks[0] > 0;
    result.real_tokens = static_cast<std::int64_t>(of_ranks[1]);
    result.seconds_by_rank.assign(of_ranks + 2, of_ranks + 2 + live_.ranks().size());
  }
  for (std::size_t s = 0; s < sources; ++s) {
    const double loss = sums[2 + s], targets = sums[2 + sources + s];
    result.targets_by_source.push_back(static_cast<std::int64_t>(targets));
    result.loss_by_source.push_back(targets > 0 ? loss / targets : std::numeric_limits<double>::quiet_NaN());
  }
  return result;
}

}  // namespace meristem
