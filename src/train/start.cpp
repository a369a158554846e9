#include "train/start.h"

#include <algorithm>
#include <array>
#include <fstream>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "config/load.h"
#include "core/errors.h"
#include "train/checkpoint_check.h"

namespace meristem {
namespace {

namespace fs = std::filesystem;

// What may change under an exact resume: it decides what is written, not what is computed.
bool may_change(const std::string& key) {
  static constexpr std::array<const char*, 2> kSections{"logging.", "checkpoint."};
  for (const char* section : kSections) {
    if (key.rfind(section, 0) == 0) return true;
  }
  return key == "run.out" || key == "data.validation.every";
}

void refuse_changes(const RunConfig& config, const LoadedCheckpoint& checkpoint, const fs::path& path) {
  const RunConfig saved = config_of(checkpoint, path);
  for (const ConfigDifference& difference : config_differences(saved, config)) {
    if (may_change(difference.key)) continue;
    throw InputError(
        fmt::format("{}: was {}, now {}; an exact resume changes only logging, checkpoint, run.out and data.validation.every. "
                    "Start a new run from this checkpoint with --branch {}",
                    difference.key, difference.first, difference.second, path.string()));
  }
}

void refuse_other_depth(const RunConfig& config, const LoadedCheckpoint& checkpoint, const fs::path& path) {
  const auto stages = growth_stages(config);
  const std::int64_t step = checkpoint.state.step;
  if (step > total_steps(config)) {
    throw InputError(fmt::format("schedule.steps: {}; {} is already at step {}", total_steps(config), path.string(), step));
  }
  const std::int64_t expected = stages.at(stage_of_step(stages, step)).blocks;
  if (expected == checkpoint.state.blocks) return;
  throw InputError(
      fmt::format("{}: holds {} blocks; this config has {} at step {}", path.string(), checkpoint.state.blocks, expected, step));
}

// RUN/checkpoints/step-N, wherever the folder of runs was moved to.
fs::path place_among_runs(const fs::path& checkpoint) {
  const fs::path path = fs::absolute(checkpoint).lexically_normal();
  const fs::path folder = path.has_filename() ? path : path.parent_path();
  return folder.parent_path().parent_path().filename() / folder.filename();
}

Start from_branch(const fs::path& path, const ModelRegistry& registry) {
  Start start;
  start.checkpoint_path = path;
  start.checkpoint = open_checkpoint(path, registry);
  start.from_trunk = true;
  return start;
}

// A run that began as a branch has to go on as the branch of the same checkpoint.
void check_origin(const fs::path& folder, const fs::path& branch, bool has_checkpoint) {
  const fs::path origin = branch_origin(folder);
  if (branch.empty()) {
    if (origin.empty() || has_checkpoint) return;
    throw InputError(
        fmt::format("{}: began as a branch and has no checkpoint of its own yet; add --branch {}", folder.string(), origin.string()));
  }
  if (origin.empty() && !has_checkpoint) return;  // ended before it had begun
  if (!origin.empty() && place_among_runs(origin) == place_among_runs(branch)) return;
  throw InputError(fmt::format("{}: {}, not of {}; choose another run.name", folder.string(),
                               origin.empty() ? "is no branch" : "is a branch of " + origin.string(), branch.string()));
}

Start from_own_newest(const RunConfig& config, const fs::path& branch, const ModelRegistry& registry) {
  Start start;
  const fs::path folder = fs::path(config.run.out) / config.run.name;
  start.new_run = false;
  std::error_code ignored;
  const auto found = fs::is_directory(folder / "checkpoints", ignored) ? newest_whole_checkpoint(folder / "checkpoints") : std::nullopt;
  check_origin(folder, branch, found.has_value());
  if (!found && !branch.empty()) {
    start = from_branch(branch, registry);
    start.new_run = false;
  }
  if (!found) return start;
  for (const std::string& line : found->skipped_damaged) start.notes.push_back("DAMAGED checkpoint skipped: " + line);
  start.checkpoint_path = found->path;
  start.checkpoint = open_checkpoint(found->path, registry);
  refuse_changes(config, *start.checkpoint, found->path);
  return start;
}

Start from_named(const RunConfig& config, const fs::path& path, const ModelRegistry& registry) {
  Start start;
  start.new_run = false;
  start.checkpoint_path = path;
  start.checkpoint = open_checkpoint(path, registry);
  refuse_changes(config, *start.checkpoint, path);
  // Going back in the same folder would leave checkpoints of two histories side by side.
  const fs::path own = fs::path(config.run.out) / config.run.name / "checkpoints";
  std::error_code ignored;
  if (!fs::is_directory(own, ignored)) return start;
  for (const auto& entry : fs::directory_iterator(own)) {
    const auto step = checkpoint_step(entry.path().filename().string());
    if (!step || *step <= start.checkpoint->state.step) continue;
    throw InputError(fmt::format("{}: is newer than {}; move it away, or start a new run with --branch {}", entry.path().string(),
                                 path.string(), path.string()));
  }
  return start;
}

}  // namespace

std::size_t stage_of_step(const std::vector<GrowthStage>& stages, std::int64_t step) {
  for (std::size_t i = 0; i < stages.size(); ++i) {
    if (step <= stages[i].until_step) return i;
  }
  return stages.size() - 1;
}

fs::path branch_origin(const fs::path& folder) {
  std::ifstream in(folder / "metrics.jsonl");
  // A branch says where it comes from before its first step.
  for (std::string line; std::getline(in, line);) {
    const auto record = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!record.is_object() || !record.contains("event")) break;
    if (record["event"] == "resume" && record.contains("checkpoint") && record["checkpoint"].is_string()) {
      return record["checkpoint"].get<std::string>();
    }
  }
  return {};
}

std::vector<std::string> environment_notes(const std::map<std::string, std::string>& then, const std::map<std::string, std::string>& now) {
  std::vector<std::string> notes;
  for (const char* key : {"version", "torch", "cpu", "threads", "device"}) {
    const auto a = then.find(key), b = now.find(key);
    if (a == then.end() || b == now.end() || a->second == b->second) continue;
    notes.push_back(fmt::format("{} was {} and is {}: losses will agree to rounding, not bit for bit", key, a->second, b->second));
  }
  return notes;
}

Start decide_start(const RunConfig& config, const StartRequest& request, const ModelRegistry& registry) {
  if (!request.branch.empty() && request.resume != "none" && request.resume != "auto") {
    throw InputError("--branch and --resume PATH exclude each other; --resume auto goes on with a branch that was cut short");
  }
  Start start;
  if (request.resume == "auto") {
    start = from_own_newest(config, request.branch, registry);
  } else if (!request.branch.empty()) {
    start = from_branch(request.branch, registry);
  } else if (request.resume != "none") {
    start = from_named(config, request.resume, registry);
  }
  if (start.checkpoint) refuse_other_depth(config, *start.checkpoint, start.checkpoint_path);
  if (!start.checkpoint && config.initial) start.initial = open_initial(config);
  return start;
}

}  // namespace meristem
