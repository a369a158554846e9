#include "checkpoint/async_writer.h"

#include <atomic>
#include <future>
#include <stdexcept>

#include "support/catch.h"
#include "support/sample_checkpoint.h"
#include "support/temp_dir.h"

using namespace meristem;
using namespace meristem::test;

TEST_CASE("submit returns while the write runs, and a second submit waits for the first") {
  AsyncWriter writer;
  std::promise<void> release;
  std::atomic<int> running{0}, most{0}, done{0};
  const auto job = [&] {
    most = std::max(most.load(), ++running);
    --running;
    ++done;
  };
  writer.submit([&, gate = release.get_future().share()] {
    gate.wait();
    job();
  });
  CHECK(done == 0);  // submit came back, although the job cannot end before the next line
  release.set_value();
  for (int i = 0; i < 20; ++i) {
    writer.submit(job);
    CHECK(done >= i + 1);
  }
  writer.wait();
  CHECK(done == 21);
  CHECK(most == 1);
}

TEST_CASE("an error is thrown by the next submit, whose job does not start, and only once") {
  AsyncWriter writer;
  bool started = false;
  writer.submit([] { throw SystemError("disk full"); });
  CHECK(message_of<SystemError>([&] { writer.submit([&] { started = true; }); }) == "disk full");
  CHECK_FALSE(started);
  writer.wait();
  writer.submit([] { throw SystemError("again"); });
  CHECK(message_of<SystemError>([&] { writer.wait(); }) == "again");
  CHECK_NOTHROW(writer.wait());
}

TEST_CASE("destruction finishes the write in flight") {
  const TempDir dir;
  const SampleCheckpoint sample(9);
  {
    AsyncWriter writer;
    writer.submit([&] { save_checkpoint(dir / "step-9", sample.content); });
  }
  CHECK(load_checkpoint(dir / "step-9").state.step == 9);
}
