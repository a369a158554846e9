// Mutation fuzzer over the formats that come from outside. Built with AddressSanitizer and UndefinedBehaviorSanitizer.
//   fuzz_formats [--seconds N] [--seed S] [--format NAME [--case K]]
// A case passes if the reader accepts the files or throws one of the user-facing errors, in one line that names a file of the case; it
// fails on anything else: another exception, a sanitizer's report, ten seconds of processor time (two minutes of the clock: others may be
// busy here) without an end, a changed input. A failure prints how to play the case again.
#include <sys/time.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <string>

#include <fmt/format.h>
#include <sanitizer/common_interface_defs.h>

#include "core/errors.h"
#include "core/file.h"
#include "fuzz/format.h"
#include "support/temp_dir.h"

namespace meristem::fuzz {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr unsigned kProcessorSeconds = 10, kClockSeconds = 120;
std::array<char, 400> running{};  // how to play the running case again: read from a signal handler and from the sanitizers' last words

void say_running() {
  const ssize_t ignored = ::write(STDERR_FILENO, running.data(), std::strlen(running.data()));
  static_cast<void>(ignored);
}

void on_alarm(int /*signal*/) {
  constexpr std::string_view kText = "fuzz: a case does not end\n";
  const ssize_t ignored = ::write(STDERR_FILENO, kText.data(), kText.size());
  static_cast<void>(ignored);
  say_running();
  ::abort();  // the sanitizer prints where it hangs
}

// 0: no longer.
void limit_case(unsigned processor_seconds, unsigned clock_seconds) {
  const itimerval limit{{0, 0}, {processor_seconds, 0}};
  ::setitimer(ITIMER_PROF, &limit, nullptr);
  ::alarm(clock_seconds);
}

struct Count {
  std::int64_t cases = 0, accepted = 0, input = 0, damaged = 0, system = 0;
  double seconds = 0;
};

void require_message(const std::string& message, const Files& files, const std::string& folder) {
  if (message.find('\n') != std::string::npos || message.find('\r') != std::string::npos)
    throw std::logic_error("more than one line: " + message);
  if (message.size() > 4000) throw std::logic_error(fmt::format("a message of {} bytes: {}", message.size(), message.substr(0, 300)));
  if (files.empty() && message.find(folder) != std::string::npos) return;
  for (const auto& [name, bytes] : files) {
    // A prefix names its two files, a folder those that are missing in it.
    const std::string stem = (fs::path(folder) / name).replace_extension().string();
    if (message.find(stem) != std::string::npos || message.find((fs::path(folder) / name).parent_path().string()) != std::string::npos)
      return;
  }
  throw std::logic_error("names no file: " + message);
}

void write_files(const fs::path& folder, const Files& files) {
  for (const auto& [name, bytes] : files) {
    fs::create_directories((folder / name).parent_path());
    std::FILE* file = std::fopen((folder / name).c_str(), "wb");
    if (file == nullptr || std::fwrite(bytes.data(), 1, bytes.size(), file) != bytes.size()) throw std::logic_error("cannot write " + name);
    std::fclose(file);
  }
}

void read_case(const Format& format, const Files& files, const fs::path& folder, Count& count) {
  try {
    format.read(folder);
    ++count.accepted;
  } catch (const Error& error) {
    require_message(error.what(), files, folder.string());
    switch (error.exit_code()) {
      case ExitCode::kUserInput: ++count.input; break;
      case ExitCode::kDamaged: ++count.damaged; break;
      case ExitCode::kInternal: ++count.system; break;
      default: throw std::logic_error(std::string("an error of the wrong kind: ") + error.what());
    }
  }
}

void run_case(const Format& format, const std::vector<Files>& seeds, std::int64_t seed, std::int64_t number, Count& count) {
  Dice dice(seed, format.name(), number);
  Files files = dice.pick(seeds);
  format.mutate(files, dice.pick(seeds), dice);
  const test::TempDir dir;
  const fs::path folder = dir / "case";
  fs::create_directories(folder);
  write_files(folder, files);
  std::snprintf(running.data(), running.size(), "fuzz: replay with --seed %lld --format %s --case %lld\n", static_cast<long long>(seed),
                format.name().c_str(), static_cast<long long>(number));
  const auto begun = Clock::now();
  limit_case(kProcessorSeconds, kClockSeconds);
  read_case(format, files, folder, count);
  limit_case(0, 0);
  count.seconds += std::chrono::duration<double>(Clock::now() - begun).count();
  ++count.cases;
  if (files_below(folder) != files) throw std::logic_error("the input was changed");
}

struct Options {
  double seconds = 10;
  std::int64_t seed = 1, only_case = -1;
  std::string format;
};

Options parse_options(int argc, char** argv) {
  Options options;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string name = argv[i], value = argv[i + 1];
    if (name == "--seconds")
      options.seconds = std::stod(value);
    else if (name == "--seed")
      options.seed = std::stoll(value);
    else if (name == "--format")
      options.format = value;
    else if (name == "--case")
      options.only_case = std::stoll(value);
    else
      throw std::invalid_argument("unknown option " + name);
  }
  if (argc % 2 == 0) throw std::invalid_argument("every option takes a value");
  return options;
}

std::vector<std::unique_ptr<Format>> chosen_formats(const std::string& name) {
  std::vector<std::unique_ptr<Format>> all, chosen;
  all.push_back(safetensors_format());
  all.push_back(checkpoint_format());
  all.push_back(config_format());
  all.push_back(shard_format());
  for (auto& format : all) {
    if (name.empty() || format->name() == name) chosen.push_back(std::move(format));
  }
  if (chosen.empty()) throw std::invalid_argument("no format is called " + name);
  return chosen;
}

// Every seed must be accepted as it is: otherwise the mutants prove nothing.
std::vector<Files> checked_seeds(const Format& format) {
  const test::TempDir scratch;
  const std::vector<Files> seeds = format.seeds(scratch.path());
  for (const Files& files : seeds) {
    const test::TempDir dir;
    write_files(dir / "case", files);
    format.read(dir / "case");
  }
  return seeds;
}

int run(const Options& options) {
  const auto formats = chosen_formats(options.format);
  const double seconds_each = options.seconds / static_cast<double>(formats.size());
  for (const auto& format : formats) {
    const std::vector<Files> seeds = checked_seeds(*format);
    Count count;
    const auto begun = Clock::now();
    std::int64_t number = std::max<std::int64_t>(options.only_case, 0);
    do {
      run_case(*format, seeds, options.seed, number++, count);
    } while (options.only_case < 0 && std::chrono::duration<double>(Clock::now() - begun).count() < seconds_each);
    std::cout << fmt::format("{:12} {:8} cases: {:4.1f} % accepted, {} input errors, {} damaged, {} system errors; {} seeds\n",
                             format->name(), count.cases, 100.0 * static_cast<double>(count.accepted) / static_cast<double>(count.cases),
                             count.input, count.damaged, count.system, seeds.size())
              << std::flush;
  }
  return 0;
}

}  // namespace

Files files_below(const fs::path& folder) {
  Files files;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file()) files[fs::relative(entry.path(), folder).string()] = read_file(entry.path());
  }
  return files;
}

}  // namespace meristem::fuzz

int main(int argc, char** argv) {
  for (const int signal : {SIGALRM, SIGPROF}) ::signal(signal, meristem::fuzz::on_alarm);
  __sanitizer_set_death_callback(meristem::fuzz::say_running);
  // Memory takes thousands of small files a second, a disk hundreds.
  if (::access("/dev/shm", W_OK | X_OK) == 0) ::setenv("TMPDIR", "/dev/shm", 0);
  try {
    return meristem::fuzz::run(meristem::fuzz::parse_options(argc, argv));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "fuzz: %s\n", error.what());
    meristem::fuzz::say_running();
    return 1;
  }
}
