// The program: parse, run one subcommand, and turn every failure into one line and an exit code.
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <new>
#include <string>

#include <ATen/Parallel.h>
#include <fmt/format.h>

#include "cli/commands.h"
#include "config/load.h"
#include "core/cpus.h"

#include <c10/util/Exception.h>

namespace {

using namespace meristem;

int fail(ExitCode code, const std::string& message) {
  // One line, whatever a library put into its message.
  std::string line = message.substr(0, message.find('\n'));
  const char* rank = std::getenv("RANK") != nullptr                   ? std::getenv("RANK")
                     : std::getenv("SLURM_STEP_NUM_TASKS") != nullptr ? std::getenv("SLURM_PROCID")
                                                                      : nullptr;
  const bool several = rank != nullptr;
  fmt::print(stderr, "meristem: error: {}{}\n", several && std::string(rank) != "0" ? fmt::format("[rank {}] ", rank) : "", line);
  if (several) {  // the other ranks may be waited for by threads that nobody ends
    std::fflush(nullptr);
    std::_Exit(static_cast<int>(code));
  }
  return static_cast<int>(code);
}

// What stdout did not take was not done: `inspect X > list` on a full disk is a failure. Not every library keeps the reason.
SystemError output_error(int reason) {
  return SystemError(fmt::format("stdout: cannot be written: {}", std::strerror(reason != 0 ? reason : ENOSPC)));
}

ExitCode flushed(ExitCode code) {
  errno = 0;
  std::cout.flush();
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0 || !std::cout.good()) throw output_error(errno);
  return code;
}

void add_config_reference(CLI::App& app, cli::Action& run) {
  CLI::App* command =
      app.add_subcommand("config-reference", "Print docs/configuration.md: every key, its type, default, allowed values and meaning");
  command->callback([&run] {
    run = [] {
      fmt::print("{}", configuration_reference());
      return ExitCode::kOk;
    };
  });
}

// As many threads as processors are a container's share of the machine. OMP_NUM_THREADS is the user's word, or the launcher's.
void stay_within_quota() {
  if (std::getenv("OMP_NUM_THREADS") != nullptr) return;
  const int threads = at::get_num_threads(), within = threads_within(cpu_quota(), threads);
  if (within < threads) at::set_num_threads(within);
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
  cli::add_analyze(app, run);
  add_config_reference(app, run);
  cli::add_import(app, run);
  cli::add_export(app, run);
  cli::add_describe(app, run);
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp& help) {
    app.exit(help);
    return static_cast<int>(flushed(ExitCode::kOk));
  } catch (const CLI::CallForVersion& version) {
    app.exit(version);
    return static_cast<int>(flushed(ExitCode::kOk));
  } catch (const CLI::ParseError& error) {
    return fail(ExitCode::kUserInput, std::string(error.what()) + "; see meristem --help");
  }
  return static_cast<int>(flushed(run()));
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGXFSZ, SIG_IGN);                              // a file that may not grow is a failed write, as on a full disk
  ::setenv("TORCH_CPP_LOG_LEVEL", "FATAL", /*overwrite=*/0);  // LibTorch tells of every attempt to connect
  try {
    stay_within_quota();
    keep_freed_memory();
    return run_program(argc, argv);
  } catch (const Error& error) {
    return fail(error.exit_code(), error.what());
  } catch (const c10::Error& error) {
    return fail(ExitCode::kInternal, error.what_without_backtrace());
  } catch (const std::bad_alloc&) {
    return fail(ExitCode::kInternal, "out of memory");
  } catch (const std::exception& error) {
    return fail(ExitCode::kInternal, std::ferror(stdout) != 0 ? output_error(0).what() : error.what());
  }
}
