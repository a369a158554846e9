// The command line as JSON, read from the parser itself: what scripts/meristem completion is made of.
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "cli/commands.h"

namespace meristem::cli {
namespace {

nlohmann::ordered_json described(const CLI::App& command) {
  nlohmann::ordered_json options = nlohmann::ordered_json::array();
  for (const CLI::Option* option : command.get_options()) {
    std::vector<std::string> names;
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
    for (const std::string& name : option->get_snames()) names.push_back("-" + name);
    if (names.empty() || option->get_group().empty()) continue;  // positional, or for programs
    options.push_back({{"names", names},
                       {"value", option->get_items_expected_max() > 0},
                       {"required", option->get_required()},
                       {"default", option->get_default_str()},
                       {"help", option->get_description()}});
  }
  return {{"help", command.get_description()}, {"options", options}};
}

}  // namespace

void add_describe(CLI::App& app, Action& run) {
  CLI::App* command =
      app.add_subcommand("describe-commands", "Print every command with its options as JSON")->group("");  // not in the help
  command->callback([&app, &run] {
    run = [&app] {
      nlohmann::ordered_json commands;
      for (const CLI::App* one : app.get_subcommands([](const CLI::App* each) { return !each->get_group().empty(); })) {
        commands[one->get_name()] = described(*one);
      }
      fmt::print("{}\n", commands.dump());
      return ExitCode::kOk;
    };
  });
}

}  // namespace meristem::cli
