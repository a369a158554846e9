#include <string_view>

#include <fmt/format.h>

#include "core/errors.h"
#include "core/file.h"
#include "core/json.h"
#include "metrics/jsonl.h"

namespace meristem {
namespace {

// Published whole: written beside, fsynced, renamed, folder fsynced.
void publish(const std::filesystem::path& path, std::string_view bytes) {
  const std::filesystem::path beside = path.string() + ".tmp";
  write_file_durably(beside, bytes);
  std::error_code failed;
  std::filesystem::rename(beside, path, failed);
  if (failed) {
    throw SystemError(fmt::format("{}: cannot be renamed to {}: {}", beside.string(), path.filename().string(), failed.message()));
  }
  fsync_folder(path.has_parent_path() ? path.parent_path() : ".");
}

std::filesystem::path first_free_lost_path(const std::filesystem::path& path) {
  for (int k = 1;; ++k) {
    const std::filesystem::path candidate =
        path.parent_path() / fmt::format("{}.lost-{}{}", path.stem().string(), k, path.extension().string());
    if (!std::filesystem::exists(candidate)) return candidate;
  }
}

// Whether a line stays when the run goes back to `step`. `line_step` is the step of the line before, then of this one.
bool stays(std::string_view line, std::int64_t step, std::int64_t& line_step) {
  try {
    const nlohmann::json value = parse_json_strict(line, "line");
    if (!value.is_object()) return false;
    if (const auto found = value.find("step"); found != value.end()) {
      if (!found->is_number_integer()) return false;
      line_step = found->get<std::int64_t>();
    }
    return line_step <= step;
  } catch (const DamagedError&) {
    return false;
  }
}

}  // namespace

MetricsCut truncate_after(const std::filesystem::path& path, std::int64_t step) {
  MetricsCut cut;
  if (!std::filesystem::exists(path)) return cut;
  const MappedFile file(path);
  const std::string_view text(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  std::string kept, lost;
  std::int64_t line_step = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t newline = text.find('\n', begin);
    const bool torn = newline == std::string_view::npos;
    const std::string_view line = text.substr(begin, torn ? std::string_view::npos : newline + 1 - begin);
    const bool keep = !torn && stays(line.substr(0, line.size() - 1), step, line_step);
    (keep ? kept : lost) += line;
    ++(keep ? cut.kept : cut.lost);
    begin += line.size();
  }
  if (lost.empty()) return cut;
  cut.lost_path = first_free_lost_path(path);
  publish(cut.lost_path, lost);
  publish(path, kept);
  return cut;
}

}  // namespace meristem
