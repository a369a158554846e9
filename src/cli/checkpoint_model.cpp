#include "cli/commands.h"

#include <algorithm>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/torch.h>

#include "checkpoint/store.h"
#include "checkpoint/tensors.h"
#include "config/load.h"
#include "core/clock.h"
#include "core/errors.h"
#include "core/text.h"
#include "run/start.h"
#include "step/live_model.h"

namespace meristem::cli {

std::filesystem::path checkpoint_folder(const std::filesystem::path& path) {
  std::vector<std::string> skipped;
  const std::filesystem::path folder = resolve_checkpoint(path, skipped);
  for (const std::string& line : skipped) fmt::print(stderr, "DAMAGED checkpoint skipped: {}\n", line);
  return folder;
}

NamedCheckpoint open_named_checkpoint(const std::filesystem::path& path) {
  std::vector<std::string> skipped;
  NamedCheckpoint named = read_checkpoint(path, skipped, [](const std::filesystem::path& folder) {
    return NamedCheckpoint{folder, open_checkpoint(folder, checkpoint_layout(builtin_registry()))};
  });
  for (const std::string& line : skipped) fmt::print(stderr, "DAMAGED checkpoint skipped: {}\n", line);
  return named;
}

CheckpointModel open_checkpoint_model(const std::filesystem::path& path, at::Device device, std::int64_t positions,
                                      const std::string& precision) {
  const auto chosen = choice_of<Precision>(precision);
  if (!precision.empty() && !chosen)
    throw InputError(fmt::format("--precision: found {}; allowed: {}", in_quotes(precision), fmt::join(all_words<Precision>(), ", ")));
  const auto [folder, checkpoint] = open_named_checkpoint(path);
  const ModelRegistry registry = builtin_registry();
  CheckpointModel out;
  out.config = config_of(checkpoint, folder);
  const NamedTensors weights = tensors_of(checkpoint.model);
  require_finite(weights, folder.string());
  if (chosen) out.config.precision = {*chosen, *chosen};
  const Timeline timeline(out.config);
  out.config.model.blocks = checkpoint.state.blocks;
  const ModelBuild build = model_build(out.config, timeline, device);
  out.model = registry.make(out.config.model, build, std::max(positions, out.config.data.sequence_length));
  out.parameters = std::make_unique<FlatParameters>(out.model->parameter_infos(), build.placement.compute, out.config.optimizer);
  out.parameters->load_masters(weights);
  out.plan = DepthPlan::parse(checkpoint.state.depth_plan);
  return out;
}

std::shared_ptr<Model> model_without_storage(const RunConfig& config) {
  ModelBuild build;
  build.placement.device = at::kMeta;
  return builtin_registry().make(config.model, build, config.data.sequence_length);
}

void add_run_options(CLI::App& command, RunOptions& options) {
  command.add_option("--precision", options.precision, "fp32 | bf16: what to compute in (default: as trained)");
  command
      .add_flag("--seconds", options.seconds, "Say on stderr how long the work took without start-up, for programs: a line \"seconds S\"")
      ->group("");
}

void RunOptions::say_seconds(double begin) const {
  if (seconds) fmt::print(stderr, "seconds {:.6f}\n", seconds_now() - begin);
}

void add_plan_options(CLI::App& command, PlanChoice& choice) {
  command.add_option("--plan", choice.text,
                     "Depth plan, e.g. \"0-9, (10-13)x2, 14-23\"; semicolons will do for commas (default: as trained)");
  add_whole_number(command, "--repeats", choice.repeats, "Rounds of the plan's one loop (default: as the plan says)", 1,
                   DepthPlan::kMaxCalls);
}

DepthPlan plan_or(const PlanChoice& choice, const DepthPlan& trained, std::int64_t blocks) {
  DepthPlan plan = choice.text.empty() ? trained : DepthPlan::parse(choice.text);
  if (choice.repeats) {
    try {
      plan = plan.with_repeats(*choice.repeats);
    } catch (const InputError& error) {
      throw InputError(fmt::format("--repeats: {}", error.what()));
    }
  }
  if (!choice.empty()) plan.check(blocks, /*every_block=*/false);
  return plan;
}

}  // namespace meristem::cli
