#include "metrics/jsonl.h"

#include <cerrno>
#include <cmath>
#include <optional>
#include <string_view>
#include <type_traits>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "core/errors.h"
#include "core/file.h"
#include "core/json.h"
#include "core/text.h"

namespace meristem {
namespace {

std::string json_string(std::string_view text) {
  // Bytes that are not UTF-8 (a file name, a sample) must not cost the line.
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string json_number(double value) {
  std::string text = number_text(value);
  if (!std::isfinite(value)) return '"' + text + '"';
  // "3" would read back as an integer, and "-0" as one without its sign.
  if (text.find_first_of(".e") == std::string::npos) text += ".0";
  return text;
}

std::string json_value(const MetricsValue& value) {
  return std::visit(
      [](const auto& held) -> std::string {
        using T = std::decay_t<decltype(held)>;
        if constexpr (std::is_same_v<T, double>) {
          return json_number(held);
        } else if constexpr (std::is_same_v<T, std::int64_t>) {
          return std::to_string(held);
        } else if constexpr (std::is_same_v<T, bool>) {
          return held ? "true" : "false";
        } else if constexpr (std::is_same_v<T, std::string>) {
          return json_string(held);
        } else if constexpr (std::is_same_v<T, std::vector<double>>) {
          std::string text;
          for (const double number : held) text += (text.empty() ? "" : ", ") + json_number(number);
          return "[" + text + "]";
        } else {
          std::string text;
          for (const auto& [key, number] : held) {
            text += fmt::format("{}{}: {}", text.empty() ? "" : ", ", json_string(key), json_number(number));
          }
          return "{" + text + "}";
        }
      },
      value);
}

// Whether the file ends inside a line: a write that a full disk or a kill cut short.
bool ends_inside_a_line(const std::filesystem::path& path, int fd) {
  struct stat info {};
  if (::fstat(fd, &info) != 0) throw_errno(path, "cannot be read");
  char last = '\n';
  if (info.st_size > 0 && ::pread(fd, &last, 1, info.st_size - 1) != 1) throw_errno(path, "cannot be read");
  return last != '\n';
}

void write_line(const std::filesystem::path& path, int fd, const std::string& text) {
  ssize_t put = 0;
  do {
    put = ::write(fd, text.data(), text.size());
  } while (put < 0 && errno == EINTR);
  if (put == static_cast<ssize_t>(text.size())) return;
  if (put >= 0) {
    // A part of the line went in: take it back, the file holds whole lines only. Where that fails too, a resume moves the torn line away.
    struct stat info {};
    [[maybe_unused]] const bool taken_back = ::fstat(fd, &info) == 0 && ::ftruncate(fd, info.st_size - put) == 0;
    errno = ENOSPC;
  }
  throw_errno(path, "cannot be written");
}

}  // namespace

std::string metrics_json(const MetricsLine& line) {
  std::string text = "{";
  for (const auto& [key, value] : line) {
    if (text.size() > 1) text += ", ";
    text += json_string(key);
    text += ": ";
    text += json_value(value);
  }
  return text + "}";
}

MetricsLog::MetricsLog(std::filesystem::path path) : path_(std::move(path)) {
  fd_ = ::open(path_.c_str(), O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
  if (fd_ < 0) throw_errno(path_, "cannot be opened");
  if (ends_inside_a_line(path_, fd_)) write_line(path_, fd_, "\n");
}

MetricsLog::~MetricsLog() { ::close(fd_); }

void MetricsLog::append(const MetricsLine& line) { write_line(path_, fd_, metrics_json(line) + "\n"); }

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
