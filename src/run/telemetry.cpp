#include "run/telemetry.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include <fmt/format.h>
#include <torch/torch.h>

#include "config/load.h"
#include "metrics/throughput.h"

namespace meristem {
namespace {

double largest_over_mean(const at::Tensor& counts_E) {
  return counts_E.max().item<double>() / std::max(1e-300, counts_E.mean().item<double>());
}

double entropy_of(const at::Tensor& counts_E) {
  const at::Tensor share = counts_E / counts_E.sum().clamp_min(1);
  return -at::xlogy(share, share).sum().item<double>();
}

ProgressOptions console_of(const RunConfig& config) {
  ProgressOptions options;
  options.plain_every = std::max<std::int64_t>(1, config.logging.every);
  return options;
}

// The hparams plugin compares runs by these; text of several lines says nothing there.
std::vector<std::pair<std::string, HParam>> hparams_of(const RunConfig& config) {
  std::vector<std::pair<std::string, HParam>> values;
  for (const auto& [key, value] : config_values(config)) values.emplace_back(key, hparam_of(value));
  return values;
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

Telemetry::Telemetry(const RunConfig& config, const Timeline& timeline, const RunFolder& folder, std::optional<std::int64_t> resumed_after,
                     std::string device_name, bool speaks)
    : config_(config), updates_(timeline.updates()), device_name_(std::move(device_name)) {
  if (!speaks) return;
  log_ = std::make_unique<MetricsLog>(folder.metrics());
  progress_ = std::make_unique<Progress>(console_of(config));
  if (!config.logging.tensorboard) return;
  tensorboard_ = std::make_unique<EventWriter>(folder.tensorboard(), resumed_after);
  // A resumed run's are behind the step it resumes from: the reader drops them together with what that run repeats.
  const std::int64_t step = resumed_after ? *resumed_after + 1 : 0;
  tensorboard_->add_hparams(config.run.name, hparams_of(config), step);
  tensorboard_->add_text("config", "```yaml\n" + dump_config(config) + "```", step);
  tensorboard_->flush();
}

void Telemetry::add_by_source(const UpdateResult& result) {
  source_losses_.resize(result.loss_by_source.size());
  source_targets_.resize(result.loss_by_source.size());
  for (std::size_t s = 0; s < result.loss_by_source.size(); ++s) {
    if (result.targets_by_source[s] == 0) continue;
    source_losses_[s] += result.loss_by_source[s] * static_cast<double>(result.targets_by_source[s]);
    source_targets_[s] += result.targets_by_source[s];
  }
}

std::map<std::string, double> Telemetry::loss_by_source() const {
  std::map<std::string, double> losses;
  for (std::size_t s = 0; s < source_losses_.size(); ++s) {
    if (source_targets_[s] > 0) losses[config_.data.sources[s].first] = source_losses_[s] / static_cast<double>(source_targets_[s]);
  }
  return losses;
}

MetricsLine Telemetry::step_line(const StepReport& report, const UpdateResult& result, const ProcessMemory& memory) const {
  MetricsLine line{{"step", report.step}, {"tokens", report.tokens}};
  if (report.counts) {
    line.emplace_back("real_tokens", report.counts->real_tokens);
    line.emplace_back("trained_tokens", report.counts->trained_tokens);
    line.emplace_back("flops", report.counts->flops);
  }
  const Throughput::Amounts rate = throughput_.per_second();
  const MetricsLine measured{{"loss", result.loss},
                             {"lr", report.lr},
                             {"grad_norm", result.grad_norm},
                             {"blocks", report.blocks},
                             {"calls", report.calls},
                             {"parameters", report.parameters},
                             {"tokens_per_second", rate.positions},
                             {"real_tokens_per_second", rate.real},
                             {"trained_tokens_per_second", rate.trained},
                             {"flops_per_second", rate.flops}};
  line.insert(line.end(), measured.begin(), measured.end());
  if (const auto share = mfu(rate.flops, device_name_)) {
    line.emplace_back("mfu", *share);
    line.emplace_back("mfu_real", *share * rate.real / rate.positions);
  }
  line.emplace_back("memory", memory.peak_bytes);
  line.emplace_back("loader_wait", timed_ > 0 ? waited_ / timed_ : 0.0);
  add_rank_metrics(line);
  line.emplace_back("loss_by_source", loss_by_source());
  line.emplace_back("stream_rms", result.stream_rms);
  line.emplace_back("flops_per_token_by_call", report.flops_by_call);
  std::map<std::string, double> tokens, epochs;
  for (const SourceUse& use : report.use) tokens[use.name] = static_cast<double>(use.tokens), epochs[use.name] = use.epochs;
  line.emplace_back("tokens_by_source", tokens);
  line.emplace_back("epochs_by_source", epochs);
  if (!expert_loads_.by_depth.empty()) {
    const ExpertMetrics experts = expert_metrics(expert_loads_);
    line.emplace_back("expert_load", experts.load);
    line.emplace_back("expert_entropy", experts.entropy);
  }
  return line;
}

bool Telemetry::logs(std::int64_t n) const { return n % std::max<std::int64_t>(1, config_.logging.every) == 0 || n == updates_; }

// Of the updates since the last line. A rank that is slower than the others makes all of them wait.
void Telemetry::add_rank_metrics(MetricsLine& line) const {
  if (seconds_by_rank_.empty()) return;
  const auto slowest = std::max_element(seconds_by_rank_.begin(), seconds_by_rank_.end());
  const double mean = std::accumulate(seconds_by_rank_.begin(), seconds_by_rank_.end(), 0.0) / static_cast<double>(seconds_by_rank_.size());
  line.emplace_back("world_size", static_cast<std::int64_t>(seconds_by_rank_.size()));
  line.emplace_back("communication_exposed", timed_ > 0 ? waited_for_ranks_ / timed_ : 0.0);
  line.emplace_back("slowest_rank", static_cast<std::int64_t>(slowest - seconds_by_rank_.begin()));
  line.emplace_back("slowest_rank_ratio", mean > 0 ? *slowest / mean : 1.0);
}

void Telemetry::note(const std::string& text) {
  if (progress_) progress_->note(text);
}

void Telemetry::step(const StepReport& report, const UpdateResult& result) {
  if (!log_) return;
  throughput_.add_step(report.seconds, {static_cast<double>(config_.batch.tokens), static_cast<double>(result.real_tokens),
                                        static_cast<double>(result.targets), report.flops});
  waited_ += report.loader_wait;
  timed_ += report.seconds;
  waited_for_ranks_ += result.seconds_waited;
  seconds_by_rank_.resize(result.seconds_by_rank.size());
  for (std::size_t rank = 0; rank < seconds_by_rank_.size(); ++rank) seconds_by_rank_[rank] += result.seconds_by_rank[rank];
  add_by_source(result);
  if (report.blocks != expert_blocks_) expert_loads_ = {};  // a grown model's experts are others
  expert_blocks_ = report.blocks;
  expert_loads_.add(report.experts);
  show(report, result);
  if (result.spike) {
    event(result.skipped ? "skip" : "spike", report.step, {{"loss", result.loss}, {"grad_norm", result.grad_norm}},
          fmt::format("step {}: spike, loss {:.4f}, gradient norm {:.3g}{}", report.step, result.loss, result.grad_norm,
                      result.skipped ? "; update skipped" : ""));
  }
  if (!logs(report.step)) return;
  const ProcessMemory memory = process_memory();
  log_->append(step_line(report, result, memory));
  if (tensorboard_) draw(report, result, memory);
  waited_ = timed_ = waited_for_ranks_ = 0;
  seconds_by_rank_.clear();
  source_losses_.clear();
  expert_loads_ = {};
  source_targets_.clear();
}

void Telemetry::show(const StepReport& report, const UpdateResult& result) {
  const Throughput::Amounts rate = throughput_.per_second();
  ProgressState state;
  state.step = report.step;
  state.total = updates_;
  state.loss = result.loss;
  state.lr = report.lr;
  state.grad_norm = result.grad_norm;
  state.tokens_per_second = rate.positions;
  state.real_tokens_per_second = rate.real;
  state.trained_tokens_per_second = rate.trained;
  state.blocks = report.blocks;
  state.calls = report.calls;
  state.eta = throughput_.seconds_per_step() * static_cast<double>(state.total - state.step);
  progress_->update(state);
}

// What TensorBoard is given of a log line.
void Telemetry::draw(const StepReport& report, const UpdateResult& result, const ProcessMemory& memory) {
  const auto add = [&](const std::string& tag, double value) { tensorboard_->add_scalar(tag, value, report.step); };
  add("train/loss", result.loss);
  for (const auto& [source, loss] : loss_by_source()) {
    if (config_.data.sources.size() > 1) add("train/loss/" + source, loss);
  }
  add("train/grad_norm", result.grad_norm);
  add("train/lr", report.lr);
  add("model/blocks", static_cast<double>(report.blocks));
  add("model/calls", static_cast<double>(report.calls));
  add("model/parameters", static_cast<double>(report.parameters));
  add("amount/tokens", static_cast<double>(report.tokens));
  if (report.counts) {
    add("amount/real_tokens", static_cast<double>(report.counts->real_tokens));
    add("amount/trained_tokens", static_cast<double>(report.counts->trained_tokens));
    add("amount/flops", report.counts->flops);
  }
  const Throughput::Amounts rate = throughput_.per_second();
  add("speed/tokens_per_second", rate.positions);
  add("speed/real_tokens_per_second", rate.real);
  add("speed/trained_tokens_per_second", rate.trained);
  add("speed/flops_per_second", rate.flops);
  if (const auto share = mfu(rate.flops, device_name_)) add("speed/mfu", *share);
  add("memory/resident_bytes", static_cast<double>(memory.resident_bytes));
  add("memory/peak_bytes", static_cast<double>(memory.peak_bytes));
  tensorboard_->flush();
}

void Telemetry::event(const std::string& name, std::int64_t step, MetricsLine fields, const std::string& note) {
  if (!log_) return;
  MetricsLine line{{"event", name}, {"step", step}};
  line.insert(line.end(), fields.begin(), fields.end());
  log_->append(line);
  if (!note.empty()) progress_->note(note);
  if (!tensorboard_ || name == "validation" || note.empty()) return;  // validations are curves
  tensorboard_->add_text("events/" + name, note, step);
  tensorboard_->flush();
}

void Telemetry::validation(std::int64_t step, const std::string& source, double loss, std::int64_t targets) {
  event("validation", step, {{"source", source}, {"loss", loss}, {"targets", targets}, {"perplexity", std::exp(loss)}},
        fmt::format("step {}: validation {} loss {:.4f} ({} targets)", step, source, loss, targets));
  if (!tensorboard_) return;
  tensorboard_->add_scalar("validation/" + source, loss, step);
  tensorboard_->flush();
}

void Telemetry::finish(std::int64_t step, bool whole) {
  if (progress_) progress_->finish();
  if (!tensorboard_) return;
  if (whole) tensorboard_->add_end(true, step);  // one that was stopped goes on
  tensorboard_->flush();
}

}  // namespace meristem
