// JSON lines of token ids, which are long: read without a name for each number.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"

namespace meristem {

// Calls body(value, "PATH:LINE") for each line of `text`, of the file `path`; refused as parse_json_strict refuses.
void for_each_json_line(std::string_view text, const std::string& path,
                        const std::function<void(const nlohmann::json& value, const std::string& origin)>& body);

// Whole numbers from 0 on that an int32 holds; DamagedError names `key` and the place in the list.
std::vector<std::int32_t> token_ids(const nlohmann::json& list, const std::string& origin, const std::string& key);

}  // namespace meristem
