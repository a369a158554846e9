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

TEST_CASE("a config's value is a number, a truth or a text") {
  CHECK(hparam_of("true") == HParam(true));
  CHECK(hparam_of("false") == HParam(false));
  CHECK(hparam_of("3e-3") == HParam(0.003));
  CHECK(hparam_of("-7") == HParam(-7.0));
  CHECK(hparam_of("\"lidas\"") == HParam(std::string("lidas")));
  CHECK(hparam_of("\"7\"") == HParam(std::string("7")));
  CHECK(hparam_of("\"a \\\"b\\\\\"") == HParam(std::string("a \"b\\")));
  for (const std::string text : {"", "\"", "inf", "nan", "1e999", "0-11", "lidas", "1 2", "null"}) CHECK(hparam_of(text) == HParam(text));
}

TEST_CASE("TensorBoard's plugins read texts, hyperparameters and how the run ended") {
  const auto python = test::find_python();
  if (!python) {
    FAIL("no Python to read the event files with: name one that has the tensorboard package in MERISTEM_PYTHON");
  }
  const TempDir folder;
  {
    EventWriter writer(folder / "run");
    writer.add_hparams("tiny", {{"optimizer.lr", 0.003}, {"data.document_mask", true}, {"model.depth_plan", std::string("0-11")}}, 0);
    writer.add_text("config", "```yaml\nrun: {name: é}\n```", 0);
    writer.add_text("events/growth", "step 4: grew", 4);
    writer.add_scalar("train/loss", 2.5, 4);
    writer.add_end(true, 6);
  }
  {
    EventWriter writer(folder / "run", 4);
    writer.add_hparams("tiny", {{"optimizer.lr", 0.003}}, 5);
    writer.add_end(false, 7);
  }
  const auto result = test::run_python(*python, R"(
import sys
from tensorboard.backend.event_processing import data_provider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import backend_context, list_session_groups, api_pb2, metadata
from tensorboard import context
from tensorboard.plugins.text.metadata import PLUGIN_NAME

events = EventMultiplexer().AddRunsFromDirectory(sys.argv[1])
events.Reload()
for tag in ("config", "events/growth"):
    print(tag, [(e.step, e.tensor_proto.string_val[0].decode()) for e in events.Tensors("run", tag)])
print("texts", sorted(events.PluginRunToTagToContent(PLUGIN_NAME)["run"]))
found = events.PluginRunToTagToContent(metadata.PLUGIN_NAME)["run"]
start = metadata.parse_session_start_info_plugin_data(found[metadata.SESSION_START_INFO_TAG])
print("group", start.group_name, start.start_time_secs > 1e9)
for key in sorted(start.hparams):
    print(key, start.hparams[key].WhichOneof("kind"), getattr(start.hparams[key], start.hparams[key].WhichOneof("kind")))
end = metadata.parse_session_end_info_plugin_data(found[metadata.SESSION_END_INFO_TAG])
print("status", end.status)
# As the plugin's own page asks for its table.
provider = data_provider.MultiplexerDataProvider(events, sys.argv[1])
hparams = backend_context.Context(TBContext(logdir=sys.argv[1], multiplexer=events, data_provider=provider))
request, no_context = api_pb2.ListSessionGroupsRequest(start_index=0, slice_size=9), context.RequestContext()
request.allowed_statuses.extend([api_pb2.STATUS_UNKNOWN, api_pb2.STATUS_SUCCESS, api_pb2.STATUS_FAILURE, api_pb2.STATUS_RUNNING])
experiment = hparams.experiment_from_metadata(no_context, "", True, hparams.hparams_metadata(no_context, ""), [])
print("hparams", sorted(info.name for info in experiment.hparam_infos), "metrics", [info.name.tag for info in experiment.metric_infos])
)",
                                       folder.path().string());
  INFO(result.output);
  REQUIRE(result.exit_code == 0);
  const auto says = [&](const std::string& text) { return result.output.find(text) != std::string::npos; };
  CHECK(says("config [(0, '```yaml\\nrun: {name: é}\\n```')]"));
  CHECK(says("events/growth [(4, 'step 4: grew')]"));
  CHECK(says("texts ['config', 'events/growth']"));
  CHECK(says("group tiny True\ndata.document_mask bool_value True\nmodel.depth_plan string_value 0-11\noptimizer.lr number_value 0.003\n"));
  CHECK(says("status 1"));
  CHECK(says("hparams ['data.document_mask', 'model.depth_plan', 'optimizer.lr'] metrics ['train/loss']"));
}
