#include <fmt/format.h>

#include "cli/commands.h"
#include "config/load.h"

namespace meristem::cli {

void add_config_reference(CLI::App& app, Action& run) {
  CLI::App* command =
      app.add_subcommand("config-reference", "Print docs/configuration.md: every key, its type, default, allowed values and meaning");
  command->callback([&run] {
    run = [] {
      fmt::print("{}", configuration_reference());
      return ExitCode::kOk;
    };
  });
}

}  // namespace meristem::cli
