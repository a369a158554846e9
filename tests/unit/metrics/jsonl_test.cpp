#include "metrics/jsonl.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include <sys/stat.h>

#include "core/errors.h"
#include "core/file.h"
#include "core/json.h"
#include "support/catch.h"
#include "support/temp_dir.h"

using namespace meristem;
using meristem::test::TempDir;

TEST_CASE("a line keeps the order of its keys and the type of its values") {
  const std::map<std::string, double> by_source{{"b", 1.0}, {"a", 2.0}};
  const MetricsLine line{{"step", 3}, {"loss", 2.5}, {"event", "growth"}, {"ok", true}, {"loss_by_source", by_source}};
  CHECK(metrics_json(line) == R"({"step": 3, "loss": 2.5, "event": "growth", "ok": true, "loss_by_source": {"a": 2.0, "b": 1.0}})");
  CHECK(metrics_json({}) == "{}");
}

TEST_CASE("doubles read back bit-equal, and as floating point") {
  std::vector<double> values{0.0,
                             -0.0,
                             1.0,
                             3.0,
                             -7.0,
                             0.1,
                             1e22,
                             1e300,
                             123456789012345680.0,
                             18446744073709551616.0,
                             std::numeric_limits<double>::denorm_min(),
                             std::numeric_limits<double>::max(),
                             static_cast<double>(2.3f)};
  std::uint64_t bits = 0x9E3779B97F4A7C15u;
  for (int i = 0; i < 2000; ++i) {
    bits = bits * 6364136223846793005u + 1442695040888963407u;
    if (const double value = std::bit_cast<double>(bits); std::isfinite(value)) values.push_back(value);
  }
  for (const double value : values) {
    const nlohmann::json read = parse_json_strict(metrics_json({{"x", value}}), "line").at("x");
    REQUIRE(read.is_number_float());
    REQUIRE(std::bit_cast<std::uint64_t>(read.get<double>()) == std::bit_cast<std::uint64_t>(value));
  }
}

TEST_CASE("what JSON has no number for is a string, and costs nothing else of the line") {
  const double inf = std::numeric_limits<double>::infinity();
  const std::map<std::string, double> inner{{"x", std::nan("")}};
  const MetricsLine line{{"step", 1}, {"loss", std::nan("")}, {"a", inf}, {"b", -inf}, {"m", inner}, {"lr", 0.5}};
  CHECK(metrics_json(line) == R"({"step": 1, "loss": "nan", "a": "inf", "b": "-inf", "m": {"x": "nan"}, "lr": 0.5})");
}

TEST_CASE("any text stays one line of strict JSON") {
  const std::string text = "quote \" backslash \\ newline \n tab \t nul " + std::string(1, '\0') + " bad utf8 \xff é";
  const std::string json = metrics_json({{"text", text}});
  CHECK(json.find('\n') == std::string::npos);
  CHECK(parse_json_strict(json, "line").at("text").get<std::string>().find("backslash \\ newline \n tab") != std::string::npos);
}

TEST_CASE("the log appends whole lines, also to a file that ends in a torn one") {
  const TempDir folder;
  const auto path = folder / "metrics.jsonl";
  MetricsLog(path).append({{"step", 1}});
  MetricsLog(path).append({{"step", 2}});
  CHECK(read_file(path) == "{\"step\": 1}\n{\"step\": 2}\n");
  std::ofstream(path, std::ios::app) << "{\"step\": 3, \"lo";
  MetricsLog(path).append({{"step", 4}});
  CHECK(read_file(path) == "{\"step\": 1}\n{\"step\": 2}\n{\"step\": 3, \"lo\n{\"step\": 4}\n");
}

TEST_CASE("a log that cannot be opened or written names its file") {
  const TempDir folder;
  CHECK_THROWS_AS(MetricsLog(folder / "no" / "metrics.jsonl"), InputError);
  try {
    MetricsLog("/dev/full").append({{"step", 1}});
    FAIL("a full disk went unnoticed");
  } catch (const SystemError& error) {
    CHECK(std::string(error.what()).find("/dev/full") != std::string::npos);
  }
}

namespace {

std::filesystem::path file_with(const TempDir& folder, const std::string& text) {
  const auto path = folder / "metrics.jsonl";
  std::ofstream(path, std::ios::binary) << text;
  return path;
}

}  // namespace

TEST_CASE("lines past the checkpoint move to the first free lost file") {
  const std::string kept = "{\"step\": 1}\n{\"step\": 2}\n{\"step\": 2, \"event\": \"checkpoint\"}\n";
  const TempDir folder;
  const auto path = file_with(folder, kept + "{\"step\": 3}\n{\"step\": 4}\n");
  const MetricsCut cut = truncate_after(path, 2);
  CHECK(cut.kept == 3);
  CHECK(cut.lost == 2);
  CHECK(cut.lost_path == folder / "metrics.lost-1.jsonl");
  CHECK(read_file(path) == kept);
  CHECK(read_file(cut.lost_path) == "{\"step\": 3}\n{\"step\": 4}\n");

  MetricsLog(path).append({{"step", 3}});
  CHECK(truncate_after(path, 0).lost_path == folder / "metrics.lost-2.jsonl");
  CHECK(read_file(path).empty());
  CHECK(read_file(folder / "metrics.lost-1.jsonl") == "{\"step\": 3}\n{\"step\": 4}\n");
  CHECK(folder_entries(folder.path()) == std::vector<std::string>{"metrics.jsonl", "metrics.lost-1.jsonl", "metrics.lost-2.jsonl"});
}

TEST_CASE("a torn last line is lost even where its step is early enough") {
  const TempDir folder;
  const auto path = file_with(folder, "{\"step\": 1}\n{\"step\": 2}");
  const MetricsCut cut = truncate_after(path, 5);
  CHECK(cut.kept == 1);
  CHECK(cut.lost == 1);
  CHECK(read_file(path) == "{\"step\": 1}\n");
  CHECK(read_file(cut.lost_path) == "{\"step\": 2}");
}

TEST_CASE("what is no JSON object is lost, a line without a step goes with the line before") {
  const TempDir folder;
  const std::string nul(8, '\0');
  const std::string kept = "{\"event\": \"start\"}\n{\"step\": 1}\n{\"event\": \"x\"}\n";
  const auto path = file_with(folder, kept + nul + "\n[1]\n{\"step\": 9}\n{\"event\": \"y\"}\n");
  const MetricsCut cut = truncate_after(path, 1);
  CHECK(read_file(path) == kept);
  CHECK(read_file(cut.lost_path) == nul + "\n[1]\n{\"step\": 9}\n{\"event\": \"y\"}\n");
}

TEST_CASE("nothing to lose, nothing written") {
  const TempDir folder;
  CHECK(truncate_after(folder / "metrics.jsonl", 3).kept == 0);
  CHECK(folder_entries(folder.path()).empty());
  const auto path = file_with(folder, "{\"step\": 3}\n");
  const MetricsCut cut = truncate_after(path, 3);
  CHECK(cut.kept == 1);
  CHECK(cut.lost_path.empty());
  CHECK(folder_entries(folder.path()) == std::vector<std::string>{"metrics.jsonl"});
}

TEST_CASE("a cut that was killed half-way is repeated without losing a line") {
  const TempDir folder;
  const auto path = file_with(folder, "{\"step\": 1}\n{\"step\": 2}\n");
  // Killed between the two renames: the lost file stands, the log is uncut, a temporary is left over.
  std::ofstream(folder / "metrics.lost-1.jsonl") << "{\"step\": 2}\n";
  std::ofstream(folder / "metrics.jsonl.tmp") << "{\"st";
  truncate_after(path, 1);
  CHECK(read_file(path) == "{\"step\": 1}\n");
  CHECK(read_file(folder / "metrics.lost-2.jsonl") == "{\"step\": 2}\n");
  CHECK_FALSE(std::filesystem::exists(folder / "metrics.jsonl.tmp"));
}

TEST_CASE("what follows the checkpoint of the step is done again: it is lost") {
  const TempDir folder;
  const std::string kept = "{\"step\": 5}\n{\"event\": \"validation\", \"step\": 5}\n{\"event\": \"checkpoint\", \"step\": 5}\n";
  const std::string again = "{\"event\": \"growth\", \"step\": 5}\n{\"event\": \"phase\", \"step\": 5}\n";
  const auto path = file_with(folder, kept + "{\"event\": \"resume\", \"step\": 5}\n" + again);
  CHECK(truncate_after(path, 5).lost == 3);
  CHECK(read_file(path) == kept);
}

TEST_CASE("a resume ends what stays where the kill came before the checkpoint's line") {
  const TempDir folder;
  const auto path =
      file_with(folder, "{\"step\": 5}\n{\"event\": \"resume\", \"step\": 5}\n{\"event\": \"growth\", \"step\": 5}\n{\"step\": 6}\n");
  CHECK(truncate_after(path, 5).lost == 3);
  CHECK(read_file(path) == "{\"step\": 5}\n");
}

TEST_CASE("events of earlier checkpoints cut nothing, and -1 cuts everything") {
  const TempDir folder;
  const std::string kept =
      "{\"event\": \"phase\", \"step\": 0}\n{\"event\": \"checkpoint\", \"step\": 5}\n{\"event\": \"growth\", \"step\": 5}\n{\"step\": "
      "6}\n";
  const auto path = file_with(folder, kept);
  CHECK(truncate_after(path, 6).lost == 0);
  CHECK(truncate_after(path, -1).kept == 0);
}

TEST_CASE("an event is found by name and step in whole lines only") {
  const TempDir folder;
  const auto path = file_with(
      folder,
      "{\"event\": \"validation\", \"step\": 4}\n{\"step\": 5}\n{\"event\": \"growth\", \"step\": 5}\n{\"event\": \"x\", \"step\": 6}");
  CHECK(has_event(path, "validation", 4));
  CHECK_FALSE(has_event(path, "validation", 5));
  CHECK(has_event(path, "growth", 5));
  CHECK_FALSE(has_event(path, "x", 6));
  CHECK_FALSE(has_event(folder / "none.jsonl", "x", 6));
}
