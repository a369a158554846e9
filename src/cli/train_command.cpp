#include <memory>
#include <optional>

#include <fmt/format.h>

#include "cli/commands.h"
#include "config/load.h"
#include "run/run.h"
#include "run/scale.h"
#include "run/start.h"

namespace meristem::cli {

void add_train(CLI::App& app, Action& run) {
  struct Arguments {
    std::string config;
    std::vector<std::string> overrides;
    bool dry_run = false;
    std::optional<std::int64_t> ranks;
    StartRequest start;
  };
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command = app.add_subcommand("train", "Train as a config says");
  command->add_option("config", arguments->config, "RUN.yaml")->required();
  command->add_option("overrides", arguments->overrides, "key=value: replaces values of the config");
  command->add_flag("--dry-run", arguments->dry_run, "Build model and loader, run one step, print the plan; write nothing");
  command->add_option("--ranks", arguments->ranks, "With --dry-run: check what one of so many ranks would do and hold (default: 1)");
  command->add_option("--resume", arguments->start.resume, "auto | none | a checkpoint's path")->capture_default_str();
  command->add_option("--branch", arguments->start.branch,
                      "A new run from this checkpoint of another run; with --resume auto, one cut short goes on");
  command->callback([arguments, &run] {
    run = [arguments] {
      if (arguments->ranks && !arguments->dry_run) {
        throw InputError("--ranks: has no effect without --dry-run; a launcher starts a process for each rank");
      }
      if (arguments->ranks && (*arguments->ranks < 1 || *arguments->ranks > kMostRanks)) {
        throw InputError(fmt::format("--ranks: found {}; allowed: 1 to {}", *arguments->ranks, kMostRanks));
      }
      const RunVariants loaded = load_variants(arguments->config, arguments->overrides, {initial_model, arguments->start.branch});
      const ModelRegistry registry = builtin_registry();
      if (arguments->dry_run) {
        for (const RunConfig& config : loaded.runs) {
          const Timeline timeline(config);
          decide_start(config, timeline, arguments->start, registry);  // what cannot be resumed is said here too
          dry_run(config, timeline, registry, arguments->ranks.value_or(1));
        }
        return ExitCode::kOk;
      }
      if (loaded.runs.size() > 1) return run_variants(loaded, arguments->start, registry);
      return run_training(loaded.runs.front(), arguments->start, registry);
    };
  });
}

}  // namespace meristem::cli
