#include <memory>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "checkpoint/store.h"
#include "checkpoint/tensors.h"
#include "cli/commands.h"
#include "config/load.h"
#include "config/validate.h"
#include "core/errors.h"
#include "depth/growth.h"
#include "growth/remap.h"
#include "optim/optimizer.h"
#include "run/start.h"

namespace meristem::cli {
namespace {

struct GrowArguments {
  std::string checkpoint, op = "lidas", out, inserted = "copy", moments = "copy";
  PlanChoice plan;
  std::int64_t add = 4;
};

// The run's config with the grown model in it: full depth from here on, no further growth.
RunConfig grown_config(RunConfig config, std::int64_t blocks, const DepthPlan& plan) {
  if (config.model.loop.is_set() && !plan.has_one_loop()) {
    throw InputError(
        fmt::format("--plan: found {}; the run has settings under model.loop, which need exactly one loop group, such as (0-3)x2",
                    plan.print_grouped()));
  }
  config.model.blocks = blocks;
  config.model.depth_plan = config.model.plan_text(plan);
  config.growth.reset();
  for (PhaseConfig& phase : config.phases) phase.depth_plan = {};  // they call the blocks of before
  return config;
}

ExitCode grow(const GrowArguments& arguments) {
  std::error_code ignored;
  if (std::filesystem::exists(arguments.out, ignored)) throw InputError(fmt::format("{}: exists; choose another --out", arguments.out));
  const auto moments = choice_of<InsertedMoments>(arguments.moments);
  if (!moments) throw InputError(fmt::format("--moments: found {}; allowed: copy, zero", arguments.moments));
  const auto inserted = choice_of<InsertedBlocks>(arguments.inserted);
  if (!inserted) throw InputError(fmt::format("--inserted: found {}; allowed: copy, silent", arguments.inserted));
  const auto [folder, checkpoint] = open_named_checkpoint(arguments.checkpoint);
  const TrainState& before = checkpoint.state;
  const SourceMap source_of = grow_map(parse_growth_operator(arguments.op), before.blocks, arguments.add);
  const auto blocks = static_cast<std::int64_t>(source_of.size());
  refuse_mixed_blocks(config_of(checkpoint, folder).model.attention, source_of, "--operator " + arguments.op);
  const DepthPlan trained = DepthPlan::parse(before.depth_plan);
  if (arguments.plan.text.empty() && (!trained.is_plain() || trained.loop())) {
    throw InputError(fmt::format("--plan: is needed, since {} was trained with the plan {}", folder.string(), before.depth_plan));
  }
  const DepthPlan plan = plan_or(arguments.plan, DepthPlan::plain(blocks), blocks);
  plan.check(blocks, /*every_block=*/true);

  require_finite(tensors_of(checkpoint.model), folder.string());
  NamedTensors weights = remap(tensors_of(checkpoint.model), source_of);
  NamedTensors optimizer = remap(tensors_of(checkpoint.optimizer), source_of);
  TrainState state = before;
  const RunConfig config = grown_config(config_of(checkpoint, folder), blocks, plan);
  if (*inserted == InsertedBlocks::kSilent) {
    check_silent_growth(config.model, trained, plan, source_of, "--inserted");
    zero_inserted(weights, source_of, mixer_ends(*model_without_storage(config), blocks));
  }
  if (*moments == InsertedMoments::kZero) zero_inserted(optimizer, source_of, begins_with(state_prefixes(config.optimizer)));
  state.blocks = blocks;
  state.depth_plan = config.model.depth_plan.text;
  state.growth_history.push_back({before.step, before.blocks, blocks, arguments.op, source_of});
  state.config_yaml = dump_config(config);
  state.config_hash = config_hash(config);
  save_checkpoint(arguments.out, {state, views_of(weights), views_of(optimizer)});
  fmt::print("{}: {} -> {} blocks ({}), plan {}, copies of {}\n", arguments.out, before.blocks, blocks, arguments.op, state.depth_plan,
             fmt::join(source_of, " "));
  fmt::print("train it on with a config of {} blocks: meristem train RUN.yaml --branch {}\n", blocks, arguments.out);
  return ExitCode::kOk;
}

}  // namespace

void add_grow(CLI::App& app, Action& run) {
  auto arguments = std::make_shared<GrowArguments>();
  CLI::App* command = app.add_subcommand("grow", "Grow a checkpoint: blocks duplicated, weights and optimizer state alike");
  command->add_option("checkpoint", arguments->checkpoint, "Checkpoint or run folder")->required();
  command->add_option("--operator", arguments->op, "midas | lidas | append | stack")->capture_default_str();
  add_whole_number(*command, "--add", arguments->add, "Blocks to add", 1, std::int64_t{1} << 20);
  command->add_option("--inserted", arguments->inserted, "copy | silent: the weights of the inserted copies")->capture_default_str();
  command->add_option("--moments", arguments->moments, "copy | zero: the optimizer state of the inserted copies")->capture_default_str();
  add_plan_options(*command, arguments->plan);
  command->get_option("--plan")->description(
      "Depth plan of the grown model; needed where the checkpoint's is not plain (default: every block once)");
  command->add_option("--out", arguments->out, "New checkpoint folder")->required();
  command->callback([arguments, &run] { run = [arguments] { return grow(*arguments); }; });
}

}  // namespace meristem::cli
