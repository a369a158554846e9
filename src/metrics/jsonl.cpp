#include "metrics/jsonl.h"

#include <cerrno>
#include <cmath>
#include <type_traits>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "core/file.h"
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

}  // namespace meristem
