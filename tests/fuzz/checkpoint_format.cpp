#include <iterator>
#include <span>

#include <nlohmann/json.hpp>

#include "checkpoint/store.h"
#include "core/errors.h"
#include "core/file.h"
#include "fuzz/format.h"
#include "fuzz/mutate.h"
#include "fuzz/tensor_mutation.h"
#include "support/sample_checkpoint.h"

namespace meristem::fuzz {
namespace {

constexpr const char* kManifest = "/manifest.json";

// The manifest tells the files' sizes and hashes as they are now, so that damage reaches the readers behind that check.
void redo_manifest(Files& files, const std::string& folder) {
  const auto manifest = files.find(folder + kManifest);
  if (manifest == files.end()) return;
  auto json = nlohmann::json::parse(manifest->second, nullptr, false);
  if (!json.is_object() || !json["files"].is_object()) return;
  for (auto& item : json["files"].items()) {
    const auto file = files.find(folder + "/" + item.key());
    if (file == files.end() || !item.value().is_object()) continue;
    item.value()["bytes"] = file->second.size();
    item.value()["xxh3"] = xxh3_hex(std::as_bytes(std::span(file->second)));
  }
  manifest->second = json.dump();
}

class Checkpoint : public Format {
 public:
  std::string name() const override { return "checkpoint"; }

  std::vector<Files> seeds(const std::filesystem::path& scratch) const override {
    std::vector<Files> out;
    for (const std::int64_t step : {5, 6}) {
      const test::SampleCheckpoint sample(step);
      save_checkpoint(scratch / "step-0000000005", [&] {
        CheckpointContent content = sample.content;
        content.state.step = 5;
        content.state.loader = R"({"sequence": )" + std::to_string(step) + "}";
        return content;
      }());
      out.push_back(files_below(scratch));
      std::filesystem::remove_all(scratch / "step-0000000005");
    }
    return out;
  }

  void mutate(Files& files, const Files& other, Dice& dice) const override {
    auto file = std::next(files.begin(), static_cast<std::ptrdiff_t>(dice.below(files.size())));
    const std::string folder = file->first.substr(0, file->first.find('/'));
    const double what = static_cast<double>(dice.below(100));
    if (what < 4) {
      files.erase(file);
    } else if (what < 10) {
      file->second = std::next(other.begin(), static_cast<std::ptrdiff_t>(dice.below(other.size())))->second;
    } else if (what < 14) {
      files[folder + "/" + std::string(dice.pick(std::vector<std::string>{"x.safetensors", "x", "optimizer-1.safetensors"}))] =
          file->second;
    } else {
      for (std::size_t i = 0; i <= dice.below(2); ++i) {
        file->first.ends_with(".json") ? mutate_text(file->second, dice) : mutate_safetensors(file->second, dice);
      }
    }
    if (dice.chance(0.8)) redo_manifest(files, folder);
  }

  void read(const std::filesystem::path& folder) const override {
    const LoadedCheckpoint loaded = load_checkpoint(folder / "step-0000000005");
    touch(loaded.model);
    for (const SafetensorsFile& part : loaded.optimizer) touch(part);
    // What was read can be written, and reads back equal; but it is written in this program's format, whatever it was read from.
    TrainState again = parse_train_state(train_state_json(loaded.state), "again");
    again.format_version = loaded.state.format_version;
    if (again != loaded.state) throw std::logic_error("the state does not survive a round");
    if (newest_whole_checkpoint(folder)->step != loaded.state.step) throw std::logic_error("a whole checkpoint was not found");
  }
};

}  // namespace

std::unique_ptr<Format> checkpoint_format() { return std::make_unique<Checkpoint>(); }

}  // namespace meristem::fuzz
