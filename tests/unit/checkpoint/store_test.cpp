#include "checkpoint/store.h"

#include <cstring>

#include <sys/wait.h>
#include <unistd.h>

#include "checkpoint/publish.h"
#include "support/catch.h"
#include "support/sample_checkpoint.h"
#include "support/temp_dir.h"

using namespace meristem;
using namespace meristem::test;
namespace fs = std::filesystem;
using Steps = std::vector<std::int64_t>;

TEST_CASE("a checkpoint reads back equal") {
  const TempDir dir;
  const SampleCheckpoint sample(1000);
  const fs::path folder = dir / "run/checkpoints/step-0000001000";
  save_checkpoint(folder, sample.content);
  CHECK(folder_entries(folder) == std::vector<std::string>{"manifest.json", "model.safetensors", "optimizer-0.safetensors", "state.json"});
  CHECK(folder_entries(folder.parent_path()).size() == 1);

  const LoadedCheckpoint loaded = load_checkpoint(folder);
  CHECK(loaded.state == sample.content.state);
  for (const auto& [file, tensors] :
       {std::pair{&loaded.model, &sample.content.model}, {&loaded.optimizer.at(0), &sample.content.optimizer}}) {
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

namespace {

void save_steps(const fs::path& folder, const std::vector<std::int64_t>& steps) {
  for (const std::int64_t step : steps) save_checkpoint(folder / checkpoint_name(step), SampleCheckpoint(step).content);
}

std::vector<std::int64_t> steps_in(const fs::path& folder) {
  std::vector<std::int64_t> steps;
  for (const std::string& name : folder_entries(folder)) {
    if (const auto step = checkpoint_step(name)) steps.push_back(*step);
  }
  return steps;
}

}  // namespace

TEST_CASE("rotation keeps the newest, the multiples and the pinned") {
  const TempDir dir;
  save_steps(dir.path(), {1, 2, 3, 4, 5, 6, 7, 8, 9, 10});
  rotate_checkpoints(dir.path(), 2, 4, {3, 7});
  CHECK(steps_in(dir.path()) == Steps{3, 4, 7, 8, 9, 10});
  CHECK(folder_entries(dir.path()).size() == 6);
  rotate_checkpoints(dir.path(), 0, 0, {});
  CHECK(steps_in(dir.path()) == Steps{10});
}

TEST_CASE("a damaged newest does not cost the newest whole one") {
  const TempDir dir;
  save_steps(dir.path(), {1, 2, 3, 4, 5});
  // Sizes agree: only reading it in full shows the damage.
  std::string bytes = read_file(dir / checkpoint_name(5) / "model.safetensors");
  bytes.back() ^= 1;
  overwrite(dir / checkpoint_name(5) / "model.safetensors", bytes);
  fs::resize_file(dir / checkpoint_name(3) / "optimizer-0.safetensors", 10);
  rotate_checkpoints(dir.path(), 2, 0, {});
  // 5 is damaged and newer than what counts; 4 and 2 are the two whole ones; 3 lies between them.
  CHECK(steps_in(dir.path()) == Steps{2, 3, 4, 5});
  rotate_checkpoints(dir.path(), 1, 0, {});
  CHECK(steps_in(dir.path()) == Steps{4, 5});
}

TEST_CASE("where none is whole nothing is deleted") {
  const TempDir dir;
  save_steps(dir.path(), {1, 2});
  for (const std::int64_t step : {1, 2}) fs::remove(dir / checkpoint_name(step) / "state.json");
  rotate_checkpoints(dir.path(), 1, 0, {});
  CHECK(steps_in(dir.path()) == Steps{1, 2});
}

TEST_CASE("leftovers of dead writes and deletions go, a write in flight and strangers' files stay") {
  const TempDir dir;
  save_steps(dir.path(), {1});
  const PendingFolder live(dir / "step-2");
  // A dead writer with this very process id, as in a container where every run has the same one.
  fs::create_directories(dir / ("step-3.tmp-" + std::to_string(::getpid()) + "-7"));
  fs::create_directories(dir / ".trash-step-0-1");
  fs::create_directories(dir / "notes.tmp-mine");
  overwrite(dir / "readme.txt", "hello");
  rotate_checkpoints(dir.path(), 1, 0, {});
  CHECK(folder_entries(dir.path()) ==
        std::vector<std::string>{"notes.tmp-mine", "readme.txt", checkpoint_name(1), live.path().filename().string()});
}

TEST_CASE("a write that was killed leaves a pending folder, which the next rotation removes") {
  const TempDir dir;
  save_steps(dir.path(), {1});
  const pid_t child = ::fork();
  if (child == 0) {
    PendingFolder pending(dir / "step-2");
    overwrite(pending.path() / "model.safetensors", "half");
    ::_exit(0);  // no destructor runs, as with SIGKILL
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  REQUIRE(folder_entries(dir.path()).size() == 2);
  CHECK(newest_whole_checkpoint(dir.path())->step == 1);
  rotate_checkpoints(dir.path(), 1, 0, {});
  CHECK(folder_entries(dir.path()) == std::vector<std::string>{checkpoint_name(1)});
}
