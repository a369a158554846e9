#include "interop/tensor_folder.h"

#include <fmt/format.h>

#include "core/errors.h"
#include "core/file.h"
#include "core/json.h"
#include "core/text.h"

namespace meristem {
namespace {

constexpr const char* kSingle = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";

// Shard file -> names of its tensors.
std::map<std::string, std::set<std::string>> read_weight_map(const std::filesystem::path& index) {
  const nlohmann::json document = parse_json_strict(read_file(index), index.string());
  const JsonCursor map = JsonCursor(document, index.string()).at("weight_map");
  std::map<std::string, std::set<std::string>> shards;
  for (const auto& [name, file] : map.members()) {
    const std::string shard = file.text();
    if (shard.empty() || shard == "." || shard == ".." || shard.find('/') != std::string::npos)
      file.fail("expected the name of a file beside this one");
    shards[shard].insert(name);
  }
  if (shards.empty()) map.fail("names no tensor");
  return shards;
}

}  // namespace

TensorFolder TensorFolder::open(const std::filesystem::path& folder) {
  TensorFolder out;
  out.folder_ = folder;
  std::error_code ignored;
  if (std::filesystem::exists(folder / kIndex, ignored)) {
    for (const auto& [shard, names] : read_weight_map(folder / kIndex)) out.add(folder / shard, &names);
  } else if (std::filesystem::exists(folder / kSingle, ignored)) {
    out.add(folder / kSingle, nullptr);
  } else {
    throw InputError(fmt::format("{}: has neither {} nor {} (weights in .bin files are not read: save the model anew with transformers)",
                                 folder.string(), kSingle, kIndex));
  }
  return out;
}

void TensorFolder::add(const std::filesystem::path& path, const std::set<std::string>* expected) {
  files_.push_back(SafetensorsFile::open(path));
  for (const TensorView& tensor : files_.back().tensors()) {
    if (expected != nullptr && !expected->contains(tensor.name)) {
      throw DamagedError(fmt::format("{}: tensor {} is not this file's in {}", path.string(), printable(tensor.name), kIndex));
    }
    places_.emplace(tensor.name, files_.size() - 1);
  }
  if (expected == nullptr) return;
  for (const std::string& name : *expected) {
    if (!files_.back().has(name))
      throw DamagedError(fmt::format("{}: tensor {} is missing, which {} places here", path.string(), printable(name), kIndex));
  }
}

const TensorView& TensorFolder::at(const std::string& name) const {
  const auto found = places_.find(name);
  if (found == places_.end()) throw InputError(fmt::format("{}: tensor {} is missing", folder_.string(), name));
  return files_[found->second].at(name);
}

std::string TensorFolder::file_of(const std::string& name) const { return files_[places_.at(name)].path().string(); }

std::vector<std::string> TensorFolder::names() const {
  std::vector<std::string> names;
  for (const auto& place : places_) names.push_back(place.first);
  return names;
}

}  // namespace meristem
