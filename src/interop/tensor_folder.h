// The tensors of a Hugging Face folder: model.safetensors, or shards under model.safetensors.index.json.
#pragma once

#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "checkpoint/safetensors.h"

namespace meristem {

class TensorFolder {
 public:
  // InputError where there are no safetensors; DamagedError where index and shards do not agree, or one is damaged.
  static TensorFolder open(const std::filesystem::path& folder);

  bool has(const std::string& name) const { return places_.contains(name); }
  const TensorView& at(const std::string& name) const;  // InputError where it is missing
  std::string file_of(const std::string& name) const;   // path, for messages
  std::vector<std::string> names() const;

 private:
  std::filesystem::path folder_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, std::size_t> places_;  // index into files_
  void add(const std::filesystem::path& path, const std::set<std::string>* expected);
};

}  // namespace meristem
