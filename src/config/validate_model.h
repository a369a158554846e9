// The model section: defaults that depend on other values, and what cannot be built.
#pragma once

#include <string>

#include "config/run_config.h"

namespace meristem {

void resolve_model(ModelConfig& model);

// A plan of the config: parsed, checked, and as its canonical text. A model with `loop` settings needs exactly one group in it, which the
// text keeps even where it runs once. InputError under `key`.
std::string resolve_plan(const std::string& text, const std::string& key, const ModelConfig& model, std::int64_t blocks);

}  // namespace meristem
