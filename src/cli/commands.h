// The subcommands. Each adds itself to the command line and, when chosen, leaves in `run` what the program then does.
#pragma once

#include <functional>

#include <CLI/CLI.hpp>

#include "core/errors.h"

namespace meristem::cli {

using Action = std::function<ExitCode()>;

void add_train(CLI::App& app, Action& run);
void add_plan(CLI::App& app, Action& run);
void add_inspect(CLI::App& app, Action& run);
void add_grow(CLI::App& app, Action& run);
void add_generate(CLI::App& app, Action& run);
void add_eval(CLI::App& app, Action& run);
void add_import(CLI::App& app, Action& run);
void add_export(CLI::App& app, Action& run);

}  // namespace meristem::cli
