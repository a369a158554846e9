#include <fstream>
#include <string>

#include "core/file.h"
#include "metrics/jsonl.h"
#include "support/catch.h"
#include "support/temp_dir.h"

using namespace meristem;
using meristem::test::TempDir;

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
