// What travels with a model but is not its weights: tokenizer, chat template, generation defaults, the config.json it came with.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace meristem {

// Copies those of FROM's files that belong to a tokenizer or to generation into TO, byte for byte and durably; returns their names.
// config: config.json too.
std::vector<std::string> copy_companions(const std::filesystem::path& from, const std::filesystem::path& to, bool config);

}  // namespace meristem
