#include "train/telemetry.h"

#include <cmath>

#include <fmt/format.h>

#include "metrics/memory.h"
#include "train/expert_metrics.h"

namespace meristem {
namespace {

ProgressOptions console_of(const RunConfig& config) {
  ProgressOptions options;
  options.plain_every = std::max<std::int64_t>(1, config.logging.every);
  return options;
}

}  // namespace

Telemetry::Telemetry(const RunConfig& config, const RunFolder& folder, std::optional<std::int64_t> resumed_after, std::string device_name)
    : config_(config), device_name_(std::move(device_name)), log_(folder.metrics()), progress_(console_of(config)) {
  if (config.logging.tensorboard) tensorboard_ = std::make_unique<EventWriter>(folder.tensorboard(), resumed_after);
}

MetricsLine Telemetry::step_line(const StepReport& report, const StepResult& result) const {
  std::map<std::string, double> by_source;
  for (std::size_t s = 0; s < result.loss_by_source.size(); ++s) {
    if (!std::isnan(result.loss_by_source[s])) by_source[config_.data.sources[s].first] = result.loss_by_source[s];
  }
  MetricsLine line{{"step", report.step},
                   {"tokens", report.tokens},
                   {"loss", result.loss},
                   {"lr", report.lr},
                   {"grad_norm", result.grad_norm},
                   {"blocks", report.blocks},
                   {"calls", report.calls},
                   {"parameters", report.parameters},
                   {"tokens_per_second", throughput_.tokens_per_second()},
                   {"flops_per_second", throughput_.flops_per_second()}};
  if (const auto share = mfu(throughput_.flops_per_second(), device_name_)) line.emplace_back("mfu", *share);
  line.emplace_back("memory", process_memory().peak_bytes);
  line.emplace_back("loader_wait", timed_ > 0 ? waited_ / timed_ : 0.0);
  line.emplace_back("loss_by_source", by_source);
  line.emplace_back("stream_rms", result.stream_rms);
  line.emplace_back("flops_per_token_by_call", report.flops_by_call);
  if (report.experts != nullptr && !report.experts->by_depth.empty()) {
    const ExpertMetrics experts = expert_metrics(*report.experts);
    line.emplace_back("expert_load", experts.load);
    line.emplace_back("expert_entropy", experts.entropy);
  }
  return line;
}

bool Telemetry::logs(std::int64_t n) const { return n % std::max<std::int64_t>(1, config_.logging.every) == 0 || n == total_steps(config_); }

void Telemetry::step(const StepReport& report, const StepResult& result) {
  throughput_.add_step(report.seconds, static_cast<double>(config_.batch.tokens), report.flops);
  waited_ += report.loader_wait;
  timed_ += report.seconds;

  ProgressState state;
  state.step = report.step;
  state.total = total_steps(config_);
  state.loss = result.loss;
  state.lr = report.lr;
  state.grad_norm = result.grad_norm;
  state.tokens_per_second = throughput_.tokens_per_second();
  state.blocks = report.blocks;
  state.calls = report.calls;
  state.eta = throughput_.seconds_per_step() * static_cast<double>(state.total - state.step);
  progress_.update(state);

  if (result.spike) {
    event(result.skipped ? "skip" : "spike", report.step, {{"loss", result.loss}, {"grad_norm", result.grad_norm}},
          fmt::format("step {}: spike, loss {:.4f}, gradient norm {:.3g}{}", report.step, result.loss, result.grad_norm,
                      result.skipped ? "; update skipped" : ""));
  }
  if (!logs(report.step)) return;
  log_.append(step_line(report, result));
  waited_ = timed_ = 0;
  if (!tensorboard_) return;
  tensorboard_->add_scalar("train/loss", result.loss, report.step);
  tensorboard_->add_scalar("train/grad_norm", result.grad_norm, report.step);
  tensorboard_->add_scalar("train/lr", report.lr, report.step);
  tensorboard_->add_scalar("model/blocks", static_cast<double>(report.blocks), report.step);
  tensorboard_->add_scalar("model/calls", static_cast<double>(report.calls), report.step);
  tensorboard_->add_scalar("speed/tokens_per_second", state.tokens_per_second, report.step);
  tensorboard_->flush();
}

void Telemetry::event(const std::string& name, std::int64_t step, MetricsLine fields, const std::string& note) {
  MetricsLine line{{"event", name}, {"step", step}};
  line.insert(line.end(), fields.begin(), fields.end());
  log_.append(line);
  if (!note.empty()) progress_.note(note);
}

void Telemetry::validation(std::int64_t step, const std::string& source, double loss, std::int64_t targets) {
  event("validation", step, {{"source", source}, {"loss", loss}, {"targets", targets}, {"perplexity", std::exp(loss)}},
        fmt::format("step {}: validation {} loss {:.4f} ({} targets)", step, source, loss, targets));
  if (!tensorboard_) return;
  tensorboard_->add_scalar("validation/" + source, loss, step);
  tensorboard_->flush();
}

void Telemetry::finish() { progress_.finish(); }

}  // namespace meristem
