#include "checkpoint/store.h"

#include <functional>

#include "config/load.h"
#include "support/catch.h"
#include "support/sample_checkpoint.h"
#include "support/temp_dir.h"

using namespace meristem;
using namespace meristem::test;

namespace {

// A sample whose state carries a config that this program knows.
struct Known : SampleCheckpoint {
  Known() : SampleCheckpoint(5) {
    content.state.config_yaml =
        dump_config(parse_config("model: {vocab_size: 512, width: 64, blocks: 4}\ndata:\n  sequence_length: 64\n"
                                 "  sources: {text: {path: data/text}}\nschedule: {steps: 100}\n",
                                 "run.yaml"));
    content.state.config_hash = xxh3_hex(std::as_bytes(std::span(content.state.config_yaml)));
  }
  CheckpointLayout layout() const { return {content.model, content.optimizer}; }
};

// What open_checkpoint says of a checkpoint whose state or tensors were changed before it was written, against the layout of before.
std::string refusal(const std::function<void(CheckpointContent&)>& change) {
  const TempDir dir;
  Known sample;
  const CheckpointLayout layout = sample.layout();
  change(sample.content);
  save_checkpoint(dir / "x", sample.content);
  return message_of<DamagedError>([&] { open_checkpoint(dir / "x", [&](const RunConfig&) { return layout; }); });
}

}  // namespace

TEST_CASE("a checkpoint opens where its tensors are those of the config with the state's blocks") {
  const TempDir dir;
  Known sample;
  save_checkpoint(dir / "x", sample.content);
  std::int64_t blocks = 0;
  const auto layout_of = [&](const RunConfig& config) {
    blocks = config.model.blocks;
    return sample.layout();
  };
  const LoadedCheckpoint opened = open_checkpoint(dir / "x", layout_of);
  CHECK(blocks == 8);  // grown since
  CHECK(config_of(opened, dir / "x").model.blocks == 4);
  sample.content.optimizer.clear();
  save_checkpoint(dir / "without_moments", sample.content);
  CHECK_NOTHROW(open_checkpoint(dir / "without_moments", layout_of));
}

TEST_CASE("a checkpoint that tells of two models is damaged: file and key or tensor are named") {
  const auto says = [](const std::string& message, const std::string& expected) {
    INFO(message);
    CHECK(contains(message, expected));
  };
  says(refusal([](auto& content) { content.state.depth_plan = "0-9"; }), "state.json: depth_plan: ");
  says(refusal([](auto& content) { content.state.depth_plan = "0-"; }), "state.json: depth_plan: ");
  says(refusal([](auto& content) { content.state.config_yaml += "# edited\n"; }), "state.json: config_hash: found ");
  says(refusal([](auto& content) { content.model.pop_back(); }), "model.safetensors");
  says(refusal([](auto& content) { content.model[1].shape = {6, 4}; }),
       "model.safetensors: tensor embedding.weight: has shape [6, 4]; the model has [4, 6]");
  says(refusal([](auto& content) { content.model[1].dtype = Dtype::kI32; }),
       "model.safetensors: tensor embedding.weight: has type I32; allowed: F32");
  says(refusal([](auto& content) { content.model.push_back({"more", Dtype::kF32, {0}, nullptr}); }),
       "model.safetensors: tensor more: the model has none of this name");
  says(refusal([](auto& content) { content.optimizer.pop_back(); }), "optimizer-0.safetensors");
  says(refusal([](auto& content) { content.optimizer[0].shape = {24}; }),
       "optimizer-0.safetensors: tensor exp_avg.embedding.weight: has shape");
}

TEST_CASE("a checkpoint is named by its folder or by its run's, which means the newest whole one") {
  const TempDir dir;
  std::vector<std::string> skipped;
  const auto refused = [&](const std::filesystem::path& path) {
    return message_of<InputError>([&] { resolve_checkpoint(path, skipped); });
  };
  CHECK(contains(refused(dir / "none"), "none: is not a checkpoint or run folder"));
  std::filesystem::create_directories(dir / "run/checkpoints");
  CHECK(contains(refused(dir / "run"), "run: has no checkpoint yet"));
  for (const std::int64_t step : {1, 2}) save_checkpoint(dir / "run/checkpoints" / checkpoint_name(step), SampleCheckpoint(step).content);
  const auto first = dir / "run/checkpoints" / checkpoint_name(1), second = dir / "run/checkpoints" / checkpoint_name(2);
  CHECK(resolve_checkpoint(dir / "run", skipped) == second);
  CHECK(resolve_checkpoint(first, skipped) == first);
  CHECK(skipped.empty());
  std::filesystem::remove(second / "state.json");
  CHECK(resolve_checkpoint(dir / "run", skipped) == first);
  REQUIRE(skipped.size() == 1);
  CHECK(contains(skipped[0], "state.json: is missing"));
}
