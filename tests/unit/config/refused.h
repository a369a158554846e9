// What the reader says of a small config with more lines.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "config/load.h"
#include "core/errors.h"

namespace meristem {

inline std::string small_config(const std::string& lines) {
  return "model: {vocab_size: 512, width: 64, blocks: 4}\ndata:\n  sequence_length: 64\n  sources: {text: {path: data/text}}\n"
         "schedule: {steps: 100}\n" +
         lines;
}

// The message of the InputError; "accepted" where there is none.
inline std::string refused(const std::string& yaml) {
  try {
    parse_config(yaml, "run.yaml");
  } catch (const InputError& error) {
    return error.what();
  }
  return "accepted";
}

// The same of a file with overrides.
inline std::string refused(const std::filesystem::path& file, const std::vector<std::string>& overrides) {
  try {
    load_variants(file, overrides);
  } catch (const InputError& error) {
    return error.what();
  }
  return "accepted";
}

inline bool says(const std::string& message, const std::string& part) { return message.find(part) != std::string::npos; }

}  // namespace meristem
