// YAML file + key=value -> RunConfig, and back; and the reference page. Strict: unknown key, duplicate key, wrong type, out of range,
// contradiction, an option without effect are InputErrors whose one line names file, line and full key path, what was found and what is
// allowed.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "config/run_config.h"

namespace meristem {

// Where a config that does not say its model finds it: in initial.checkpoint, or in the checkpoint that the run branches off.
struct InitialModel {
  // The model of a checkpoint or a run folder, with the blocks and the plan it ended with. Nothing where there is no such folder;
  // InputError or DamagedError where it holds no checkpoint. The rooms that can read checkpoints provide it; empty: configs say their
  // models.
  std::function<std::optional<ModelConfig>(const std::string& checkpoint)> read = {};
  std::string branch = {};  // train --branch
};

// Reads `file` (its `include`s merged under it), applies overrides such as "optimizer.lr=1e-3", resolves defaults that depend on other
// values, and validates. Relative data paths are kept as written; they are relative to the working directory. With `initial`, what the file
// leaves unsaid under `model` is what initial.checkpoint holds; with a branch, where the file does not even say model.vocab_size, the
// checkpoint that it begins from.
RunConfig load_config(const std::filesystem::path& file, const std::vector<std::string>& overrides, const InitialModel& initial = {});

// A file whose top-level `variants` describes several runs. Each is the rest of the file with the variant's keys laid over it: a plain key
// merges as `include` does, a path ("phases[1].mixture") replaces as on the command line. Overrides come last. Its run is NAME-VARIANT.
struct RunVariants {
  std::string name;             // run.name of the file
  std::vector<RunConfig> runs;  // in file order; one, called `name`, where the file has no variants or variant=NAME chose it
};
// load_config takes such a file only with the override variant=NAME.
RunVariants load_variants(const std::filesystem::path& file, const std::vector<std::string>& overrides, const InitialModel& initial = {});

// The same as load_config from text; `origin` stands for the file name in messages. `include` is refused.
RunConfig parse_config(const std::string& yaml, const std::string& origin);

// The whole resolved config as YAML; parse_config(dump_config(c)) == c, field by field.
std::string dump_config(const RunConfig& config);

// xxh3 of dump_config, 16 hex digits.
std::string config_hash(const RunConfig& config);

// Every value of the config under its full key path, as text: {"optimizer.betas[0]", "0.9"}.
std::vector<std::pair<std::string, std::string>> config_values(const RunConfig& config);

// Full key paths whose values differ, with both values: {"optimizer.lr", "0.003", "0.001"}. Used by exact resume.
struct ConfigDifference {
  std::string key, first, second;
};
std::vector<ConfigDifference> config_differences(const RunConfig& a, const RunConfig& b);

// The configuration reference, docs/configuration.md, written from the schema; a test holds the page against it.
std::string configuration_reference();

}  // namespace meristem
