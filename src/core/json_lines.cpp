#include "core/json_lines.h"

#include <algorithm>
#include <limits>

#include <fmt/format.h>

namespace meristem {

void for_each_json_line(std::string_view text, const std::string& path,
                        const std::function<void(const nlohmann::json& value, const std::string& origin)>& body) {
  std::size_t line = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    const std::string origin = fmt::format("{}:{}", path, ++line);
    body(parse_json_strict(text.substr(begin, end - begin), origin), origin);
    begin = end + 1;
  }
}

std::vector<std::int32_t> token_ids(const nlohmann::json& list, const std::string& origin, const std::string& key) {
  constexpr std::int32_t kMost = std::numeric_limits<std::int32_t>::max();
  if (!list.is_array()) JsonCursor(list, origin).fail(fmt::format("{}: found {}, expected an array", key, list.type_name()));
  std::vector<std::int32_t> ids;
  ids.reserve(list.size());
  for (const nlohmann::json& id : list) {
    const bool fits = id.is_number_unsigned() && id.get<std::uint64_t>() <= static_cast<std::uint64_t>(kMost);
    if (!fits) JsonCursor(id, fmt::format("{}: {}[{}]", origin, key, ids.size())).integer(0, kMost);  // refuses it
    ids.push_back(id.get<std::int32_t>());
  }
  return ids;
}

}  // namespace meristem
