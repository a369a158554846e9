#include <optional>
#include <string_view>

#include <fmt/format.h>

#include "core/errors.h"
#include "core/file.h"
#include "core/json.h"
#include "metrics/jsonl.h"

namespace meristem {
namespace {

std::filesystem::path first_free_lost_path(const std::filesystem::path& path) {
  for (int k = 1;; ++k) {
    const std::filesystem::path candidate =
        path.parent_path() / fmt::format("{}.lost-{}{}", path.stem().string(), k, path.extension().string());
    if (!std::filesystem::exists(candidate)) return candidate;
  }
}

struct EventLine {
  bool readable = false;  // a JSON object whose step, where it has one, is a number
  std::optional<std::int64_t> step;
  std::string event;
};

EventLine read_line(std::string_view text) {
  EventLine line;
  try {
    const nlohmann::json value = parse_json_strict(text, "line");
    if (!value.is_object()) return line;
    if (const auto found = value.find("step"); found != value.end()) {
      if (!found->is_number_integer()) return line;
      line.step = found->get<std::int64_t>();
    }
    if (const auto found = value.find("event"); found != value.end() && found->is_string()) line.event = found->get<std::string>();
    line.readable = true;
  } catch (const DamagedError&) {
  }
  return line;
}

// Decides line by line what stays when the run goes back to `step`.
class Cut {
 public:
  explicit Cut(std::int64_t step) : step_(step) {}

  bool stays(std::string_view text) {
    const EventLine line = read_line(text);
    if (!line.readable) return false;
    line_step_ = line.step.value_or(line_step_);
    if (line_step_ > step_) return false;
    if (line_step_ == step_ && line.event == "resume") behind_checkpoint_ = true;
    const bool stays = !behind_checkpoint_;
    if (line_step_ == step_ && line.event == "checkpoint") behind_checkpoint_ = true;
    return stays;
  }

 private:
  std::int64_t step_, line_step_ = 0;
  bool behind_checkpoint_ = false;
};

// Calls visit(line with its newline, whether it is torn).
template <class Visit>
void each_line(std::string_view text, Visit visit) {
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t newline = text.find('\n', begin);
    const bool torn = newline == std::string_view::npos;
    const std::string_view line = text.substr(begin, torn ? std::string_view::npos : newline + 1 - begin);
    visit(line, torn);
    begin += line.size();
  }
}

std::string_view text_of(const MappedFile& file) { return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()}; }

}  // namespace

MetricsCut truncate_after(const std::filesystem::path& path, std::int64_t step) {
  MetricsCut cut;
  if (!std::filesystem::exists(path)) return cut;
  const MappedFile file(path);
  std::string kept, lost;
  Cut decide(step);
  each_line(text_of(file), [&](std::string_view line, bool torn) {
    const bool keep = !torn && decide.stays(line.substr(0, line.size() - 1));
    (keep ? kept : lost) += line;
    ++(keep ? cut.kept : cut.lost);
  });
  if (lost.empty()) return cut;
  cut.lost_path = first_free_lost_path(path);
  replace_file_durably(cut.lost_path, lost);
  replace_file_durably(path, kept);
  return cut;
}

bool has_event(const std::filesystem::path& path, const std::string& name, std::int64_t step) {
  if (!std::filesystem::exists(path)) return false;
  const MappedFile file(path);
  bool found = false;
  each_line(text_of(file), [&](std::string_view text, bool torn) {
    if (torn || found) return;
    const EventLine line = read_line(text.substr(0, text.size() - 1));
    found = line.readable && line.step == step && line.event == name;
  });
  return found;
}

}  // namespace meristem
