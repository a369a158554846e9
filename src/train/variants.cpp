#include "train/variants.h"

#include <filesystem>

#include <fmt/format.h>

#include "metrics/progress.h"
#include "train/run.h"
#include "train/scripts.h"

namespace meristem {
namespace {

namespace fs = std::filesystem;

void say(const std::string& text) { Progress().note(text); }

void write_report(const RunVariants& variants) {
  const std::string page = (fs::path(variants.runs.front().run.out) / (variants.name + "-report.html")).string();
  std::vector<std::string> arguments{"--out", page};
  for (const RunConfig& run : variants.runs) arguments.push_back((fs::path(run.run.out) / run.run.name).string());
  const std::string trouble = run_script("report.py", arguments);
  if (!trouble.empty()) say(fmt::format("no report: {}; write it with scripts/meristem report", trouble));
}

}  // namespace

ExitCode run_variants(const RunVariants& variants, const StartRequest& request, const ModelRegistry& registry) {
  if (request.resume != "none" && request.resume != "auto") {
    throw InputError("--resume: a checkpoint belongs to one run; several variants resume with --resume auto");
  }
  for (const RunConfig& run : variants.runs) check_training(run, request, registry);
  ExitCode result = ExitCode::kOk;
  for (std::size_t i = 0; i < variants.runs.size(); ++i) {
    const RunConfig& run = variants.runs[i];
    say(fmt::format("variant {} of {}: {}", i + 1, variants.runs.size(), run.run.name));
    try {
      const ExitCode code = run_training(run, request, registry);
      if (code != ExitCode::kOk) return code;
    } catch (const NonFiniteError& error) {
      say(fmt::format("{}: {}", run.run.name, error.what()));
      result = ExitCode::kNonFinite;
    }
  }
  write_report(variants);
  return result;
}

}  // namespace meristem
