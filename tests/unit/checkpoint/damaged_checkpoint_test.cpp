#include <functional>

#include "checkpoint/store.h"
#include "support/catch.h"
#include "support/sample_checkpoint.h"
#include "support/temp_dir.h"

using namespace meristem;
using namespace meristem::test;
namespace fs = std::filesystem;

namespace {

struct Case {
  std::string what;
  std::function<void(const fs::path& folder, const fs::path& other)> damage;  // `other` is a whole checkpoint of step 2000
  std::string expected;
};

void edit(const fs::path& path, const std::string& from, const std::string& to) {
  std::string text = read_file(path);
  const std::size_t at = text.find(from);
  REQUIRE(at != std::string::npos);
  overwrite(path, text.replace(at, from.size(), to));
}

void put_copy(const fs::path& from, const fs::path& to) { fs::copy_file(from, to, fs::copy_options::overwrite_existing); }

void flip_last_byte(const fs::path& path) {
  std::string bytes = read_file(path);
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  overwrite(path, bytes);
}

const std::vector<Case>& cases() {
  static const std::vector<Case> all{
      {"manifest missing", [](auto& a, auto&) { fs::remove(a / "manifest.json"); }, "manifest.json: is missing"},
      {"manifest empty", [](auto& a, auto&) { overwrite(a / "manifest.json", ""); }, "manifest.json: bad JSON at byte 0"},
      {"manifest truncated", [](auto& a, auto&) { fs::resize_file(a / "manifest.json", 30); }, "manifest.json: bad JSON at byte 30"},
      {"model missing", [](auto& a, auto&) { fs::remove(a / "model.safetensors"); }, "model.safetensors: is missing"},
      {"a folder in a file's place", [](auto& a, auto&) { fs::remove(a / "state.json"), fs::create_directory(a / "state.json"); },
       "state.json: is missing"},
      {"one bit of the model flipped", [](auto& a, auto&) { flip_last_byte(a / "model.safetensors"); }, "model.safetensors: xxh3 is "},
      {"one bit of the optimizer flipped", [](auto& a, auto&) { flip_last_byte(a / "optimizer-0.safetensors"); },
       "optimizer-0.safetensors: xxh3 is "},
      {"optimizer truncated", [](auto& a, auto&) { fs::resize_file(a / "optimizer-0.safetensors", 100); },
       "optimizer-0.safetensors: 100 bytes, manifest.json says"},
      {"state edited", [](auto& a, auto&) { edit(a / "state.json", "\"tokens\": 4096000", "\"tokens\": 4096001"); }, "state.json: xxh3 is"},
      {"model of another step", [](auto& a, auto& b) { put_copy(b / "model.safetensors", a / "model.safetensors"); },
       "model.safetensors: "},
      {"model of another step, hashes redone",
       [](auto& a, auto& b) { put_copy(b / "model.safetensors", a / "model.safetensors"), redo_manifest(a); },
       "model.safetensors: header: __metadata__.step: found '2000', expected '1000'"},
      {"optimizer of another step, hashes redone",
       [](auto& a, auto& b) { put_copy(b / "optimizer-0.safetensors", a / "optimizer-0.safetensors"), redo_manifest(a); },
       "optimizer-0.safetensors: header: __metadata__.step: found '2000', expected '1000'"},
      {"state of another step, hashes redone", [](auto& a, auto& b) { put_copy(b / "state.json", a / "state.json"), redo_manifest(a); },
       "manifest.json: step: found 1000, state.json says 2000"},
      {"manifest of another step", [](auto& a, auto& b) { put_copy(b / "manifest.json", a / "manifest.json"); }, "model.safetensors: "},
      {"optimizer in the model's place, hashes redone",
       [](auto& a, auto&) { put_copy(a / "optimizer-0.safetensors", a / "model.safetensors"), redo_manifest(a); },
       "model.safetensors: header: __metadata__.content: found 'optimizer', expected 'model'"},
      {"the folder of another step", [](auto& a, auto& b) { fs::remove_all(a), fs::copy(b, a); },
       "state.json: step: found 2000, the folder's name says 1000"},
      {"a second optimizer file", [](auto& a, auto& b) { put_copy(b / "optimizer-0.safetensors", a / "optimizer-1.safetensors"); },
       "optimizer-1.safetensors: is not listed in manifest.json"},
      {"manifest lists a file outside", [](auto& a, auto&) { edit(a / "manifest.json", "model.safetensors", "../model.safetensors"); },
       "manifest.json: files.../model.safetensors: is not a plain file name"},
      {"manifest lists too little", [](auto& a, auto&) { edit(a / "manifest.json", "optimizer-0", "optimizer-1"); },
       "manifest.json: files: optimizer-0.safetensors is not listed"},
      {"manifest with a duplicate key", [](auto& a, auto&) { edit(a / "manifest.json", "\"step\"", "\"format_version\""); },
       "duplicate key 'format_version'"},
      {"manifest with a negative size", [](auto& a, auto&) { edit(a / "manifest.json", "\"bytes\": ", "\"bytes\": -"); },
       "files.model.safetensors.bytes: found -"},
      {"manifest with a bad hash", [](auto& a, auto&) { edit(a / "manifest.json", "\"xxh3\": \"", "\"xxh3\": \"x"); },
       "files.model.safetensors.xxh3: expected 16 hex digits"},
      {"state is not JSON, hashes redone", [](auto& a, auto&) { overwrite(a / "state.json", "nonsense"), redo_manifest(a); },
       "state.json: bad JSON at byte"},
      {"model has a hole, hashes redone", [](auto& a, auto&) { edit(a / "model.safetensors", "[96,102]", "[98,104]"), redo_manifest(a); },
       "model.safetensors: header: half.data_offsets: begins at 98"},
  };
  return all;
}

}  // namespace

TEST_CASE("damaged and mixed checkpoints are refused with the file and key, and skipped for an older whole one") {
  for (const Case& damaged : cases()) {
    const TempDir dir;
    for (const std::int64_t step : {500, 1000}) save_checkpoint(dir / checkpoint_name(step), SampleCheckpoint(step).content);
    save_checkpoint(dir / "other", SampleCheckpoint(2000).content);
    const fs::path folder = dir / checkpoint_name(1000);
    damaged.damage(folder, dir / "other");
    const std::string message = message_of<DamagedError>([&] { load_checkpoint(folder); });
    INFO(damaged.what << " -> " << message);
    CHECK(contains(message, folder.string()));
    CHECK(contains(message, damaged.expected));
    CHECK_FALSE(contains(message, "\n"));

    const auto found = newest_whole_checkpoint(dir.path());
    REQUIRE(found.has_value());
    CHECK(found->step == 500);
    REQUIRE(found->skipped_damaged.size() == 1);
    CHECK(found->skipped_damaged[0] == message);
  }
}

TEST_CASE("a checkpoint from the future is not damaged: the message names both versions, and nothing older is taken silently") {
  const TempDir dir;
  for (const std::int64_t step : {500, 1000}) save_checkpoint(dir / checkpoint_name(step), SampleCheckpoint(step).content);
  edit(dir / "step-0000001000/manifest.json", "\"format_version\": 1", "\"format_version\": 4");
  const std::string expected = "manifest.json: format_version: found 4, this program reads up to 3";
  CHECK(contains(message_of<InputError>([&] { load_checkpoint(dir / checkpoint_name(1000)); }), expected));
  CHECK(contains(message_of<InputError>([&] { newest_whole_checkpoint(dir.path()); }), expected));
}

TEST_CASE("where nothing is whole, resuming is refused rather than begun anew") {
  const TempDir dir;
  CHECK_FALSE(newest_whole_checkpoint(dir / "none").has_value());
  CHECK_FALSE(newest_whole_checkpoint(dir.path()).has_value());
  save_checkpoint(dir / "step-1", SampleCheckpoint(1).content);
  fs::remove(dir / "step-1/model.safetensors");
  CHECK(contains(message_of<DamagedError>([&] { newest_whole_checkpoint(dir.path()); }), "none of 1 checkpoints is whole"));
  CHECK(contains(message_of<InputError>([&] { load_checkpoint(dir / "step-2"); }), "step-2: there is no such checkpoint folder"));
}
