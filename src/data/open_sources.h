// Opens what a config's data section names, and checks it against the tokenizer and the model before a run begins.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "config/run_config.h"
#include "data/token_source.h"

namespace meristem {

// The training sources in config order. Validation sources are opened and checked too. Where data.tokenizer is given, its ids must fit
// vocab_size and every manifest that names a tokenizer must name this one; no manifest may have more ids. InputErrors begin with the config
// key.
std::vector<std::shared_ptr<const TokenSource>> open_sources(const DataConfig& config, std::int64_t vocab_size);

// Ids of a tokenizer.json: its largest id + 1, added tokens included. DamagedError where it is no such file.
std::int64_t tokenizer_size(const std::filesystem::path& path);

}  // namespace meristem
