// Readers beside a run that trains: checkpoints are deleted under them. And writers beside each other: one of two is first.
#include <atomic>
#include <cstring>
#include <thread>

#include <fmt/format.h>

#include "checkpoint/store.h"
#include "core/errors.h"
#include "core/file.h"
#include "support/catch.h"
#include "support/message_of.h"
#include "support/sample_checkpoint.h"
#include "support/temp_dir.h"

namespace meristem {
namespace {

namespace fs = std::filesystem;
using test::contains;
using test::message_of;
using test::SampleCheckpoint;

void save(const fs::path& run, std::int64_t step) {
  save_checkpoint(run / "checkpoints" / checkpoint_name(step), SampleCheckpoint(step).content);
}

TEST_CASE("a checkpoint that is deleted while it is read gives way to the newest by then") {
  const test::TempDir dir;
  const fs::path run = dir / "run";
  save(run, 1);
  std::vector<std::string> skipped;
  int reads = 0;
  const auto read = [&](const fs::path& folder) {
    if (++reads < 4) {  // the run goes on, faster than this reader
      save(run, reads + 1);
      rotate_checkpoints(run / "checkpoints", 1, 0, {});
    }
    return load_checkpoint(folder).state.step;
  };
  CHECK(read_checkpoint(run, skipped, read) == 4);
  CHECK(reads == 4);
  CHECK(skipped.empty());

  // Opened is opened: its files are mapped.
  const LoadedCheckpoint held = read_checkpoint(run, skipped, load_checkpoint);
  save(run, 5);
  rotate_checkpoints(run / "checkpoints", 1, 0, {});
  CHECK_FALSE(is_folder(run / "checkpoints" / checkpoint_name(4)));
  CHECK(held.model.tensors().size() == SampleCheckpoint(4).content.model.size());
  const SampleCheckpoint expected(4);
  const TensorView& weight = held.model.at("embedding.weight");
  CHECK(std::memcmp(weight.data, expected.weight.data(), weight.bytes()) == 0);
}

TEST_CASE("a reader gives up with one line: on the very checkpoint that was named, and where they go too fast") {
  const test::TempDir dir;
  const fs::path run = dir / "run";
  save(run, 1);
  std::vector<std::string> skipped;
  const auto gone = [&](const fs::path& folder) {
    remove_published(folder);
    return load_checkpoint(folder).state.step;
  };
  const fs::path named = run / "checkpoints" / checkpoint_name(1);
  CHECK(
      contains(message_of<InputError>([&] { read_checkpoint(named, skipped, gone); }), named.string() + ": was deleted while it was read"));
  std::int64_t step = 1;
  save(run, step);
  const auto always = [&](const fs::path& folder) {
    save(run, ++step);
    return gone(folder);
  };
  CHECK(
      contains(message_of<InputError>([&] { read_checkpoint(run, skipped, always); }), run.string() + ": checkpoints are deleted faster"));
  CHECK(step == 21);
  // What is wrong for another reason is said at once.
  int reads = 0;
  const auto damaged = [&](const fs::path&) -> int { throw DamagedError(fmt::format("read {}", ++reads)); };
  CHECK(message_of<DamagedError>([&] { read_checkpoint(run, skipped, damaged); }) == "read 1");
}

TEST_CASE("readers beside a writer that rotates always find a whole one") {
  const test::TempDir dir;
  const fs::path run = dir / "run";
  save(run, 1);
  std::atomic<bool> done{false};
  std::thread writer([&] {
    for (std::int64_t step = 2; !done; ++step) {
      save(run, step);
      rotate_checkpoints(run / "checkpoints", 1, 0, {});
    }
  });
  std::int64_t newest = 0, seen = 0;
  std::string trouble;
  try {
    while (seen < 20) {  // the writer gets its turn, however busy the machine is
      std::vector<std::string> skipped;
      const std::int64_t step = read_checkpoint(run, skipped, load_checkpoint).state.step;
      if (step < newest) trouble = "an older one was read";
      if (!skipped.empty()) trouble = skipped.front();
      seen += step != newest;
      newest = step;
    }
  } catch (const std::exception& error) {
    trouble = error.what();
  }
  done = true;
  writer.join();
  CHECK(trouble == "");
}

TEST_CASE("of two that publish the same folder one is first, and the other says so; nothing of the first is lost") {
  const test::TempDir dir;
  const fs::path folder = dir / "step-7";
  SampleCheckpoint mine(7), other(7);
  other.content.state.tokens += 1;
  const auto slow = [&](const fs::path& final_path) {
    save_checkpoint(folder, other.content);  // between this one's look at the place and its rename
    return make_pending_folder(final_path);
  };
  CHECK(contains(message_of<InputError>([&] { save_checkpoint(folder, mine.content, slow); }),
                 folder.string() + ": exists: another process was first"));
  CHECK(load_checkpoint(folder).state == other.content.state);
  CHECK(folder_entries(dir.path()) == std::vector<std::string>{"step-7"});
}

TEST_CASE("a run replaces its own checkpoint, and one of the two stands there at any time") {
  const test::TempDir dir;
  const fs::path folder = dir / "step-7";
  SampleCheckpoint before(7), after(7);
  after.content.state.early_stop = EarlyStopState{1.5, 7, 0};
  const auto replace = [&] { save_checkpoint(folder, after.content, make_pending_folder, {}, IfWhole::kReplace); };
  replace();  // there is none: as always
  CHECK(load_checkpoint(folder).state == after.content.state);
  remove_published(folder);
  save_checkpoint(folder, before.content);
  std::atomic<bool> done{false};
  std::string trouble;
  std::thread reader([&] {
    while (!done) {
      if (!is_folder(folder)) trouble = "nothing there";
    }
  });
  replace();
  done = true;
  reader.join();
  CHECK(trouble.empty());
  CHECK(load_checkpoint(folder).state == after.content.state);
  CHECK(folder_entries(dir.path()) == std::vector<std::string>{"step-7"});
}

}  // namespace
}  // namespace meristem
