#include "metrics/tensorboard.h"

#include <string>

#include "core/errors.h"
#include "core/file.h"
#include "support/catch.h"
#include "support/python.h"
#include "support/temp_dir.h"

using namespace meristem;
using meristem::test::TempDir;

TEST_CASE("crc32c agrees with the published vectors") {
  CHECK(crc32c("") == 0u);
  CHECK(crc32c("123456789") == 0xE3069283u);
  CHECK(crc32c(std::string(32, '\0')) == 0x8A9136AAu);
  CHECK(crc32c(std::string(32, '\xFF')) == 0x62A8AB43u);
}

TEST_CASE("an event file holds whole records after each flush") {
  const TempDir folder;
  EventWriter writer(folder / "tensorboard");
  CHECK(writer.path().filename().string().starts_with("events.out.tfevents."));
  const std::size_t empty = read_file(writer.path()).size();
  CHECK(empty > 0);  // the version record
  writer.add_scalar("loss", 1.5, 1);
  writer.flush();
  const std::string bytes = read_file(writer.path());
  CHECK(bytes.size() > empty);
  writer.flush();
  CHECK(read_file(writer.path()) == bytes);
  const EventWriter second(folder / "tensorboard");
  CHECK(second.path() != writer.path());
}

TEST_CASE("a folder that cannot be made is named") { CHECK_THROWS_AS(EventWriter("/proc/no/such"), InputError); }

TEST_CASE("TensorBoard's own reader finds what was written, and drops what a resume repeats") {
  const auto python = test::find_python();
  if (!python) {
    FAIL("no Python to read the event files with: name one that has the tensorboard package in MERISTEM_PYTHON");
  }
  if (test::run_python(*python, "import tensorboard", "").exit_code != 0) {
    FAIL("no tensorboard package in " << *python << ": third_party/python.txt pins it");
  }
  const TempDir folder;
  {
    EventWriter writer(folder.path());
    for (std::int64_t step = 1; step <= 5; ++step) {
      writer.add_scalar("train/loss", 10.0 / static_cast<double>(step), step);
      writer.add_scalar("lr é", 1e-3, step * 1000000000000);
    }
  }
  {
    EventWriter writer(folder.path(), 3);
    for (std::int64_t step = 4; step <= 6; ++step) writer.add_scalar("train/loss", 100.0 + static_cast<double>(step), step);
  }
  const auto result = test::run_python(*python, R"(
import sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
import glob
for path in sorted(glob.glob(sys.argv[1] + "/events*")):
    print("versions", [e.file_version for e in EventFileLoader(path).Load() if e.HasField("file_version")])
reader = EventAccumulator(sys.argv[1])
reader.Reload()
print("tags", reader.Tags()["scalars"])
print("loss", [(e.step, round(e.value, 4)) for e in reader.Scalars("train/loss")])
)",
                                       folder.path().string());
  INFO(result.output);
  REQUIRE(result.exit_code == 0);
  CHECK(result.output.find("versions ['brain.Event:2']\nversions ['brain.Event:2']") != std::string::npos);
  CHECK(result.output.find("tags ['train/loss', 'lr é']") != std::string::npos);
  CHECK(result.output.find("loss [(1, 10.0), (2, 5.0), (3, 3.3333), (4, 104.0), (5, 105.0), (6, 106.0)]") != std::string::npos);
}
