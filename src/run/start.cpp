#include "run/start.h"

#include <algorithm>
#include <array>
#include <fstream>
#include <functional>
#include <set>
#include <string>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "checkpoint/tensors.h"
#include "config/load.h"
#include "config/validate.h"
#include "core/errors.h"
#include "core/file.h"
#include "core/text.h"
#include "depth/growth.h"
#include "growth/remap.h"

namespace meristem {
namespace {

namespace fs = std::filesystem;

// initial.checkpoint, where it is a run's folder the newest there.
Initial read_initial(const fs::path& path) {
  std::vector<std::string> skipped;
  try {
    return read_checkpoint(path, skipped, [](const fs::path& folder) { return Initial{load_checkpoint(folder), folder}; });
  } catch (const InputError& error) {
    throw InputError(fmt::format("initial.checkpoint: {}", error.what()));
  }
}

// What may differ from the checkpoint's config: which blocks are called, and how many there are (told by the state, checked apart).
bool is_depth(const std::string& key) { return key == "model.depth_plan" || key == "model.blocks" || key.rfind("model.loop.", 0) == 0; }

// A loop may be new, or run another number of times; but concat has weights, which the checkpoint has or has not.
void refuse_other_injection(const RunConfig& config, const RunConfig& saved, const fs::path& path) {
  const Injection found = config.model.loop.injection, there = saved.model.loop.injection;
  if ((found == Injection::kConcat) == (there == Injection::kConcat)) return;
  const char* why = found == Injection::kConcat ? "has no weights for concat; allowed: none, add"
                                                : "has weights for concat, which would be lost; allowed: concat";
  throw InputError(fmt::format("model.loop.injection: found {}; initial.checkpoint {} has {}, so it {}", word_of(found), path.string(),
                               word_of(there), why));
}

void refuse_other_model(const RunConfig& config, const Initial& initial) {
  const RunConfig saved = config_of(initial.checkpoint, initial.path);
  for (const ConfigDifference& difference : config_differences(saved, config)) {
    if (difference.key.rfind("model.", 0) != 0 || is_depth(difference.key)) continue;
    throw InputError(fmt::format("{}: found {}; initial.checkpoint {} has {}", difference.key, difference.second, initial.path.string(),
                                 difference.first));
  }
  refuse_other_injection(config, saved, initial.path);
}

void refuse_other_blocks(const RunConfig& config, const Timeline& timeline, const Initial& initial) {
  const std::int64_t blocks = timeline.stages().front().blocks, there = initial.checkpoint.state.blocks;
  const std::vector<std::int64_t>& source_of = config.initial->source_of;
  if (source_of.empty()) {
    if (there == blocks) return;
    throw InputError(
        fmt::format("initial.checkpoint: {}: holds {} blocks; this config begins with {}", initial.path.string(), there, blocks));
  }
  if (static_cast<std::int64_t>(source_of.size()) != blocks) {
    throw InputError(fmt::format("initial.source_of: found {} entries; this config begins with {} blocks", source_of.size(), blocks));
  }
  refuse_mixed_blocks(config.model.attention, source_of, "initial.source_of");
  try {
    check_source_map(source_of, there);
  } catch (const InputError& error) {
    throw InputError(fmt::format("initial.source_of: {} ({})", error.what(), initial.path.string()));
  }
}

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

void refuse_other_depth(const Timeline& timeline, const LoadedCheckpoint& checkpoint, const fs::path& path) {
  const std::int64_t step = checkpoint.state.step;
  if (step > timeline.updates()) {
    throw InputError(fmt::format("schedule.steps: {}; {} is already at step {}", timeline.updates(), path.string(), step));
  }
  const std::int64_t expected = timeline.stages().at(timeline.stage_after(step)).blocks;
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

// Settings that decide which tensors there are, and of which shapes. Depth, plan and everything that only computes otherwise may change.
void refuse_other_tensors(const RunConfig& config, const LoadedCheckpoint& checkpoint, const fs::path& path) {
  static const std::set<std::string, std::less<>> kKeys{"model.vocab_size",
                                                        "model.width",
                                                        "model.norm",
                                                        "model.tie_embeddings",
                                                        "model.attention.heads",
                                                        "model.attention.kv_heads",
                                                        "model.attention.head_dim",
                                                        "model.attention.qk_norm",
                                                        "model.attention.qk_norm_over",
                                                        "model.attention.qkv_bias",
                                                        "model.feed_forward.kind",
                                                        "model.feed_forward.inner",
                                                        "model.feed_forward.count",
                                                        "model.feed_forward.shared",
                                                        "model.feed_forward.router_dim"};
  const bool gated = config.model.feed_forward.kind != FeedForwardKind::kExperts;
  for (const ConfigDifference& difference : config_differences(config_of(checkpoint, path), config)) {
    if (!kKeys.contains(difference.key)) continue;
    const bool same_tensors = difference.key == "model.feed_forward.kind" && gated && difference.first != "experts";
    if (same_tensors) continue;  // swiglu, geglu
    throw InputError(fmt::format("{}: {} in {}, {} here; a branch has the weights of its checkpoint, so this may not change",
                                 difference.key, difference.first, path.string(), difference.second));
  }
}

Start from_branch(const RunConfig& config, const fs::path& path, const ModelRegistry& registry) {
  Start start;
  start.checkpoint_path = path;
  start.checkpoint = open_checkpoint(path, checkpoint_layout(registry));
  refuse_other_tensors(config, *start.checkpoint, path);
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
    start = from_branch(config, branch, registry);
    start.new_run = false;
  }
  if (!found) return start;
  for (const std::string& line : found->skipped_damaged) start.notes.push_back("DAMAGED checkpoint skipped: " + line);
  start.checkpoint_path = found->path;
  start.checkpoint = open_checkpoint(found->path, checkpoint_layout(registry));
  refuse_changes(config, *start.checkpoint, found->path);
  return start;
}

Start from_named(const RunConfig& config, const fs::path& path, const ModelRegistry& registry) {
  Start start;
  start.new_run = false;
  start.checkpoint_path = path;
  start.checkpoint = open_checkpoint(path, checkpoint_layout(registry));
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

std::optional<ModelConfig> initial_model(const std::string& path) {
  if (!is_folder(path)) return std::nullopt;
  const auto [checkpoint, newest] = read_initial(path);
  const TrainState& state = checkpoint.state;
  ModelConfig model = config_of(checkpoint, newest).model;
  model.blocks = state.blocks;
  if (model.loop.repeats.sampled) return model;  // the plan that was drawn last says nothing
  model.depth_plan = state.depth_plan;
  model.loop.repeats = {};
  return model;
}

Initial open_initial(const RunConfig& config, const Timeline& timeline) {
  Initial initial = read_initial(config.initial->checkpoint);
  refuse_other_model(config, initial);
  refuse_other_blocks(config, timeline, initial);
  return initial;
}

void load_initial(const Initial& initial, const RunConfig& config, LiveModel& live) {
  const NamedTensors weights = tensors_of(initial.checkpoint.model);
  const std::vector<std::int64_t>& source_of = config.initial->source_of;
  live.parameters().load_masters(source_of.empty() ? weights : remap(weights, source_of));
}

LayoutOf checkpoint_layout(const ModelRegistry& registry) {
  return [registry](const RunConfig& config) -> CheckpointLayout {
    ModelBuild build;
    build.placement.device = at::kMeta;
    const std::vector<ParameterInfo> infos = registry.make(config.model, build, config.data.sequence_length)->parameter_infos();
    NamedTensors weights;
    for (const ParameterInfo& info : infos) weights.add(info.name, info.tensor);
    return {layout_of(weights), layout_of(state_layout(infos, config.optimizer))};
  };
}

std::unique_ptr<Loader> make_loader(const RunConfig& config, const Timeline& timeline, const Ranks& ranks) {
  std::vector<PhaseConfig> phases = config.phases;
  for (std::size_t i = 0; i < phases.size(); ++i) phases[i].from_step = {static_cast<double>(timeline.phase_starts()[i]), false};
  return std::make_unique<Loader>(config.data, phases, config.batch.tokens / config.data.sequence_length, config.model.vocab_size,
                                  config.run.seed, ranks.rank(), ranks.size());
}

MicroBatches micro_batches_of(const RunConfig& config, int ranks) {
  const std::int64_t sequences = config.batch.tokens / config.data.sequence_length;
  if (sequences % ranks != 0) {
    std::int64_t fewer = std::min<std::int64_t>(ranks, sequences), more = ranks + 1;
    while (sequences % fewer != 0) --fewer;
    while (more <= sequences && sequences % more != 0) ++more;
    throw InputError(fmt::format("batch.tokens: an update has {} sequences, which {} ranks cannot share evenly; {}{} can", sequences, ranks,
                                 fewer, more <= sequences ? fmt::format(" or {}", more) : ""));
  }
  const std::int64_t own = sequences / ranks;
  std::int64_t micro = std::min(config.batch.micro_sequences, own);
  while (own % micro != 0) --micro;
  return {own / micro, micro};
}

void agree_on_start(Ranks& ranks, const RunConfig& config, const Start& start) {
  if (!ranks.several()) return;
  std::map<std::string, std::string> facts{{"the config", config_hash(config)}, {"the checkpoint", "none"}};
  if (start.checkpoint) {
    facts["the checkpoint"] =
        fmt::format("step {}, {}", start.checkpoint->state.step, xxh3_hex(MappedFile(start.checkpoint_path / "manifest.json").bytes()));
  }
  ranks.agree("start", facts);
}

void agree_on_data(Ranks& ranks, const Loader& loader) {
  if (!ranks.several()) return;
  std::map<std::string, std::string> facts{{"the program", xxh3_hex(MappedFile("/proc/self/exe").bytes())}};
  for (const auto& [source, print] : loader.fingerprints()) facts["the data of source " + source] = print;
  ranks.agree("data", facts);
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

Start decide_start(const RunConfig& config, const Timeline& timeline, const StartRequest& request, const ModelRegistry& registry) {
  if (!request.branch.empty() && request.resume != "none" && request.resume != "auto") {
    throw InputError("--branch and --resume PATH exclude each other; --resume auto goes on with a branch that was cut short");
  }
  if (!request.branch.empty() && config.initial) {
    throw InputError(
        fmt::format("initial.checkpoint: found {}, which has no effect with --branch: the branch's weights are those of its checkpoint; "
                    "give initial=null",
                    in_quotes(config.initial->checkpoint)));
  }
  Start start;
  const std::vector<std::string> seen = folder_entries(fs::path(config.run.out) / config.run.name / "checkpoints");
  if (request.resume == "auto") {
    start = from_own_newest(config, request.branch, registry);
  } else if (!request.branch.empty()) {
    start = from_branch(config, request.branch, registry);
  } else if (request.resume != "none") {
    start = from_named(config, request.resume, registry);
  }
  start.seen = seen;
  if (start.checkpoint) refuse_other_depth(timeline, *start.checkpoint, start.checkpoint_path);
  if (!start.checkpoint && config.initial) start.initial = open_initial(config, timeline);
  return start;
}

}  // namespace meristem
