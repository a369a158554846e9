#include <sys/wait.h>
#include <unistd.h>

#include "checkpoint/pending_folder.h"
#include "checkpoint/store.h"
#include "support/catch.h"
#include "support/sample_checkpoint.h"
#include "support/temp_dir.h"

using namespace meristem;
using namespace meristem::test;
namespace fs = std::filesystem;

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

using Steps = std::vector<std::int64_t>;

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
