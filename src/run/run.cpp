#include "run/run.h"

#include <fmt/format.h>
#include <torch/torch.h>

#include "checkpoint/publish.h"
#include "core/file.h"
#include "metrics/progress.h"
#include "run/checkpointing.h"
#include "run/run_folder.h"
#include "run/stopping.h"
#include "run/training.h"

namespace meristem {
namespace {

namespace fs = std::filesystem;

// Trained to the end, and validated there: a resume has nothing to do but the plots, where a kill came before them.
bool is_finished(const RunConfig& config, const Timeline& timeline, const Start& start, const RunFolder& folder) {
  if (start.new_run || !start.checkpoint) return false;
  if (stops_early(config, start.checkpoint->state)) return true;
  if (start.checkpoint->state.step < timeline.updates()) return false;
  return config.data.validation.sources.empty() || has_event(folder.metrics(), "validation", timeline.updates());
}

ExitCode say_finished(const Timeline& timeline, const TrainState& state, const RunFolder& folder) {
  Progress progress;
  const char* why = state.step < timeline.updates() ? "has stopped early at step" : "is at its last step,";
  progress.note(fmt::format("{}: {} {}; nothing to do", folder.root().string(), why, state.step));
  if (is_folder(folder.root() / "plots") && folder_entries(folder.root() / "plots").empty()) draw_plots(folder);
  return ExitCode::kOk;
}

void say(const std::string& text) { Progress().note(text); }

void write_report(const RunVariants& variants) {
  const std::string page = (fs::path(variants.runs.front().run.out) / (variants.name + "-report.html")).string();
  std::vector<std::string> arguments{"--out", page};
  for (const RunConfig& run : variants.runs) arguments.push_back((fs::path(run.run.out) / run.run.name).string());
  const std::string trouble = run_script("report", arguments);
  if (!trouble.empty()) say(fmt::format("no report: {}; write it with scripts/meristem report", trouble));
}

}  // namespace

void check_training(const RunConfig& config, const StartRequest& request, const ModelRegistry& registry) {
  const Timeline timeline(config);
  const Start start = decide_start(config, timeline, request, registry);
  if (start.new_run) RunFolder::existing(config).refuse_if_used();
  const auto loader = make_loader(config, timeline);
  if (start.checkpoint) loader->seek(LoaderPosition::from_json(start.checkpoint->state.loader));
  loader->check_supply(timeline.updates());
}

namespace {

// Restarted by a launcher: the run goes on where it was, whatever was asked for the first time.
StartRequest after_restarts(StartRequest request, int restarts) {
  if (restarts > 0 && request.resume == "none") request.resume = "auto";
  return request;
}

ExitCode train_with(std::shared_ptr<Ranks> ranks, at::Device device, const RunConfig& config, const StartRequest& request,
                    const ModelRegistry& registry, const RunParts& parts) {
  const Timeline timeline(config);
  const RunFolder existing = RunFolder::existing(config);
  ranks->first_does("look at the lock", [&] { existing.refuse_if_running(); });
  Start start = decide_start(config, timeline, request, registry);
  agree_on_start(*ranks, config, start);
  if (is_finished(config, timeline, start, existing)) {
    ranks->meet("finished", "");
    return ranks->first() ? say_finished(timeline, start.checkpoint->state, existing) : ExitCode::kOk;
  }
  const std::int64_t from_step = start.checkpoint ? start.checkpoint->state.step : 0;
  require_free_disk(std::filesystem::path(config.run.out) / config.run.name, checkpoint_disk_need(config, timeline, registry, from_step));
  return Training(config, timeline, registry, std::move(start), parts, ranks, device).train();
}

}  // namespace

ExitCode run_training(const RunConfig& config, const StartRequest& request, const ModelRegistry& registry, const RunParts& parts) {
  install_stop_handlers();
  if (config.run.deterministic) at::globalContext().setDeterministicAlgorithms(true, false);
  const RankPlace place = rank_place();
  micro_batches_of(config, place.size);
  const at::Device device = pick_device(place.local_rank);
  return as_rank(place, device, config.parallel, [&](std::shared_ptr<Ranks> ranks) {
    return train_with(std::move(ranks), device, config, after_restarts(request, place.restarts), registry, parts);
  });
}

ExitCode run_variants(const RunVariants& variants, const StartRequest& request, const ModelRegistry& registry) {
  if (request.resume != "none" && request.resume != "auto") {
    throw InputError("--resume: a checkpoint belongs to one run; several variants resume with --resume auto");
  }
  for (const RunConfig& run : variants.runs) check_training(run, request, registry);
  ExitCode result = ExitCode::kOk;
  for (std::size_t i = 0; i < variants.runs.size(); ++i) {
    const RunConfig& run = variants.runs[i];
    say(fmt::format("variant {} of {}: {}", i + 1, variants.runs.size(), run.run.name));
    try {
      const ExitCode code = run_training(run, request, registry);
      if (code != ExitCode::kOk) return code;
    } catch (const NonFiniteError& error) {
      say(fmt::format("{}: {}", run.run.name, error.what()));
      result = ExitCode::kNonFinite;
    }
  }
  write_report(variants);
  return result;
}

}  // namespace meristem
