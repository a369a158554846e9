#include "interop/companions.h"

#include <array>

#include "core/file.h"

namespace meristem {
namespace {

constexpr std::array<const char*, 10> kCompanions{
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",  "vocab.json",
    "merges.txt",     "tokenizer.model",       "chat_template.jinja",     "chat_template.json", "generation_config.json"};
constexpr std::uint64_t kLargestCompanion = 1ull << 30;

}  // namespace

std::vector<std::string> copy_companions(const std::filesystem::path& from, const std::filesystem::path& to, bool config) {
  std::vector<std::string> names(kCompanions.begin(), kCompanions.end());
  if (config) names.emplace_back("config.json");
  std::erase_if(names, [&](const std::string& name) {
    std::error_code ignored;
    return !std::filesystem::is_regular_file(from / name, ignored);
  });
  for (const std::string& name : names) write_file_durably(to / name, read_file(from / name, kLargestCompanion));
  return names;
}

}  // namespace meristem
