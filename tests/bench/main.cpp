// meristem-bench: what updates and operators cost, alternating with what they are compared with. scripts/bench/ and scripts/gpu_check call
// it.
#include <fmt/format.h>

#include "bench/commands.h"
#include "core/cpus.h"
#include "core/errors.h"

#include <c10/util/Exception.h>

namespace {

using namespace meristem;

int fail(ExitCode code, const std::string& message) {
  fmt::print(stderr, "meristem-bench: error: {}\n", message.substr(0, message.find('\n')));
  return static_cast<int>(code);
}

int run_program(int argc, char** argv) {
  CLI::App app{"What updates and operators cost.", "meristem-bench"};
  app.require_subcommand(1);
  bench::Action run;
  bench::add_operators(app, run);
  bench::add_step(app, run);
  bench::add_growth(app, run);
  bench::add_variants(app, run);
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp& help) {
    return app.exit(help);
  } catch (const CLI::ParseError& error) {
    return fail(ExitCode::kUserInput, std::string(error.what()) + "; see meristem-bench --help");
  }
  return run();
}

}  // namespace

int main(int argc, char** argv) {
  try {
    keep_freed_memory();
    return run_program(argc, argv);
  } catch (const Error& error) {
    return fail(error.exit_code(), error.what());
  } catch (const c10::Error& error) {
    return fail(ExitCode::kInternal, error.what_without_backtrace());
  } catch (const std::exception& error) {
    return fail(ExitCode::kInternal, error.what());
  }
}
