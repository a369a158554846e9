// A small checkpoint with every field filled, and what the tests do to its files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "checkpoint/store.h"
#include "core/errors.h"
#include "core/file.h"
#include "support/message_of.h"

namespace meristem::test {

struct SampleCheckpoint {
  std::vector<float> weight, moment;
  std::vector<std::uint16_t> half;
  std::int64_t updates = 0;
  CheckpointContent content;

  explicit SampleCheckpoint(std::int64_t step, std::int64_t width = 6) {
    weight.resize(static_cast<std::size_t>(4 * width));
    for (std::size_t i = 0; i < weight.size(); ++i) weight[i] = static_cast<float>(step) + 0.1f * static_cast<float>(i);
    moment = weight;
    half = {1, 2, 3};
    updates = step;
    content.model = {{"half", Dtype::kBF16, {3}, half.data()},
                     {"embedding.weight", Dtype::kF32, {4, width}, weight.data()},
                     {"empty", Dtype::kF32, {0, width}, weight.data()}};
    content.optimizer = {{"exp_avg.embedding.weight", Dtype::kF32, {4, width}, moment.data()},
                         {"step.embedding", Dtype::kI64, {}, &updates}};
    TrainState& state = content.state;
    state.step = step;
    state.tokens = step * 4096;
    state.seed = 7;
    state.depth_plan = "0-3, (4-7)x2";
    state.blocks = 8;
    state.growth_history = {{0, 4, 8, "lidas", {0, 1, 1, 2, 2, 3, 3, 3}}};
    state.loader = R"({"sequence": 12, "drawn": {"b": 1, "a": 2}})";
    state.config_yaml = "run: {name: x}\n# é\n";
    state.config_hash = "0123456789abcdef";
    state.recent_losses = {3.25, 0.1, 1.0 / 3, -0.0, 5e-324};
    state.recent_grad_norms = {1e300};
    state.early_stop = EarlyStopState{1.0 / 3, step / 2, 1};
    state.environment = {{"cpu", "test"}, {"threads", "2"}};
  }
  SampleCheckpoint(const SampleCheckpoint&) = delete;
  SampleCheckpoint& operator=(const SampleCheckpoint&) = delete;
};

inline void overwrite(const std::filesystem::path& path, const std::string& bytes) { write_file_durably(path, bytes); }

// Makes the manifest agree with the files as they are now: what is wrong then must be found by other means than hashes.
inline void redo_manifest(const std::filesystem::path& folder) {
  Manifest manifest = read_manifest(folder);
  for (auto& [name, digest] : manifest.files) {
    const MappedFile file(folder / name);
    digest = {file.bytes().size(), xxh3_hex(file.bytes())};
  }
  overwrite(folder / "manifest.json", manifest_json(manifest));
}

}  // namespace meristem::test
