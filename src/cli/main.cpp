// The program: parse, run one subcommand, and turn every failure into one line and an exit code.
#include <cstdio>
#include <new>
#include <string>

#include <fmt/format.h>

#include "cli/commands.h"

#include <c10/util/Exception.h>

namespace {

using namespace meristem;

int fail(ExitCode code, const std::string& message) {
  // One line, whatever a library put into its message.
  std::string line = message.substr(0, message.find('\n'));
  fmt::print(stderr, "meristem: error: {}\n", line);
  return static_cast<int>(code);
}

int run_program(int argc, char** argv) {
  CLI::App app{"Meristem trains language models whose depth is the subject.", "meristem"};
  app.set_version_flag("--version", MERISTEM_VERSION);
  app.require_subcommand(1);
  cli::Action run;
  cli::add_train(app, run);
  cli::add_plan(app, run);
  cli::add_inspect(app, run);
  cli::add_grow(app, run);
  cli::add_generate(app, run);
  cli::add_eval(app, run);
  cli::add_bench_step(app, run);
  cli::add_bench_growth(app, run);
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp& help) {
    return app.exit(help);
  } catch (const CLI::CallForVersion& version) {
    return app.exit(version);
  } catch (const CLI::ParseError& error) {
    return fail(ExitCode::kUserInput, std::string(error.what()) + "; see meristem --help");
  }
  return static_cast<int>(run());
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run_program(argc, argv);
  } catch (const Error& error) {
    return fail(error.exit_code(), error.what());
  } catch (const c10::Error& error) {
    return fail(ExitCode::kInternal, error.what_without_backtrace());
  } catch (const std::bad_alloc&) {
    return fail(ExitCode::kInternal, "out of memory");
  } catch (const std::exception& error) {
    return fail(ExitCode::kInternal, error.what());
  }
}
