#include "checkpoint/store.h"

#include <cstring>

#include "checkpoint/pending_folder.h"
#include "support/catch.h"
#include "support/sample_checkpoint.h"
#include "support/temp_dir.h"

using namespace meristem;
using namespace meristem::test;
namespace fs = std::filesystem;

TEST_CASE("a checkpoint reads back equal") {
  const TempDir dir;
  const SampleCheckpoint sample(1000);
  const fs::path folder = dir / "run/checkpoints/step-0000001000";
  save_checkpoint(folder, sample.content);
  CHECK(folder_entries(folder) == std::vector<std::string>{"manifest.json", "model.safetensors", "optimizer-0.safetensors", "state.json"});
  CHECK(folder_entries(folder.parent_path()).size() == 1);

  const LoadedCheckpoint loaded = load_checkpoint(folder);
  CHECK(loaded.state == sample.content.state);
  for (const auto& [file, tensors] : {std::pair{&loaded.model, &sample.content.model}, {&loaded.optimizer, &sample.content.optimizer}}) {
    REQUIRE(file->tensors().size() == tensors->size());
    for (const TensorView& expected : *tensors) {
      CHECK(file->at(expected.name).shape == expected.shape);
      CHECK(std::memcmp(file->at(expected.name).data, expected.data, expected.bytes()) == 0);
    }
  }
  CHECK(load_checkpoint(folder / "").state.step == 1000);
}

TEST_CASE("a checkpoint keeps its bytes under another name, and a relative path will do") {
  const TempDir dir;
  const SampleCheckpoint sample(3);
  save_checkpoint(dir / "grown", sample.content);
  CHECK(load_checkpoint(dir / "grown").state.step == 3);
  const fs::path before = fs::current_path();
  fs::current_path(dir.path());
  save_checkpoint("step-3", sample.content);
  CHECK(load_checkpoint("step-3").state.step == 3);
  fs::current_path(before);
}

TEST_CASE("names and steps") {
  CHECK(checkpoint_name(1000) == "step-0000001000");
  CHECK(checkpoint_step("step-0000001000") == 1000);
  CHECK(checkpoint_step("step-12345678901") == 12345678901);
  for (const char* name : {"step-", "step-1.tmp-3-0", "step--1", "step-1x", "step-99999999999999999999", "xstep-1", "step-1.damaged-1"}) {
    CHECK_FALSE(checkpoint_step(name).has_value());
  }
}

TEST_CASE("a whole checkpoint is never overwritten, a damaged one makes way") {
  const TempDir dir;
  const SampleCheckpoint sample(5);
  const fs::path folder = dir / "step-5";
  save_checkpoint(folder, sample.content);
  const std::string manifest = read_file(folder / "manifest.json");
  CHECK(contains(message_of<InputError>([&] { save_checkpoint(folder, sample.content); }), "never overwritten"));
  CHECK(read_file(folder / "manifest.json") == manifest);

  overwrite(folder / "state.json", "{}");
  save_checkpoint(folder, sample.content);
  CHECK(load_checkpoint(folder).state.step == 5);
  CHECK(read_file(dir / "step-5.damaged-1/state.json") == "{}");
  CHECK(folder_entries(dir.path()) == std::vector<std::string>{"step-5", "step-5.damaged-1"});
}

TEST_CASE("a name that contradicts the step is refused before anything is written") {
  const TempDir dir;
  const SampleCheckpoint sample(5);
  CHECK(contains(message_of<InputError>([&] { save_checkpoint(dir / "step-6", sample.content); }), "contradicts step 5"));
  CHECK(folder_entries(dir.path()).empty());
}

TEST_CASE("a write that fails half-way publishes nothing and leaves nothing") {
  const TempDir dir;
  SampleCheckpoint sample(5);
  // The second file fails: the first has been written by then.
  sample.content.optimizer.push_back(sample.content.optimizer[0]);
  CHECK(contains(message_of<InputError>([&] { save_checkpoint(dir / "step-5", sample.content); }), "is taken"));
  CHECK(folder_entries(dir.path()).empty());
}

TEST_CASE("a pending folder is invisible as a checkpoint until it is published") {
  const TempDir dir;
  {
    const PendingFolder pending(dir / "step-5");
    CHECK(fs::is_directory(pending.path()));
    CHECK_FALSE(checkpoint_step(pending.path().filename().string()).has_value());
    CHECK_FALSE(newest_whole_checkpoint(dir.path()).has_value());
    const PendingFolder other(dir / "step-5");
    CHECK(other.path() != pending.path());
  }
  CHECK(folder_entries(dir.path()).empty());
  PendingFolder pending(dir / "step-5");
  pending.publish();
  CHECK(fs::is_directory(dir / "step-5"));
}
