// A file format under fuzz: how good files look, how to damage them knowingly, and what reading them in full means.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "fuzz/random.h"

namespace meristem::fuzz {

using Files = std::map<std::string, std::string>;  // path inside the case's folder -> bytes

class Format {
 public:
  virtual ~Format() = default;
  virtual std::string name() const = 0;
  // Good inputs, made once; `scratch` is an empty folder to make them in.
  virtual std::vector<Files> seeds(const std::filesystem::path& scratch) const = 0;
  // Damages a copy of a seed; `other` is a second seed to take pieces from.
  virtual void mutate(Files& files, const Files& other, Dice& dice) const = 0;
  // Reads everything that a user of the files would read. Throws what the reader throws.
  virtual void read(const std::filesystem::path& folder) const = 0;
};

std::unique_ptr<Format> safetensors_format();
std::unique_ptr<Format> checkpoint_format();
std::unique_ptr<Format> config_format();
std::unique_ptr<Format> shard_format();

// The files below `folder`.
Files files_below(const std::filesystem::path& folder);

}  // namespace meristem::fuzz
