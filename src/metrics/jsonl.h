// metrics.jsonl: one JSON object a line, appended while the run lives, cut back to the checkpoint when it resumes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace meristem {

// A double reads back bit-equal. JSON has no NaN and no infinity: they are written as the strings "nan", "inf" and "-inf".
using MetricsValue = std::variant<double, std::int64_t, std::string, bool, std::map<std::string, double>, std::vector<double>>;
// One line; keys stand in the file in this order. Keys must differ.
using MetricsLine = std::vector<std::pair<std::string, MetricsValue>>;

// The line as JSON text, without the newline.
std::string metrics_json(const MetricsLine& line);

// Appends to `path` (created where missing). Every line is one write(), so that a reader sees whole lines at any moment.
class MetricsLog {
 public:
  explicit MetricsLog(std::filesystem::path path);
  ~MetricsLog();
  MetricsLog(const MetricsLog&) = delete;
  MetricsLog& operator=(const MetricsLog&) = delete;

  void append(const MetricsLine& line);  // SystemError or InputError names the path
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  int fd_ = -1;
};

struct MetricsCut {
  std::int64_t kept = 0, lost = 0;  // lines; a torn last line counts as lost
  std::filesystem::path lost_path;  // empty where nothing was lost
};

// Before a resume at `step`: lines whose "step" is later move to metrics.lost-K.jsonl beside `path`, K the first free number from 1.
// So does what follows the checkpoint event of `step`, such as a growth there: the run does it again. A resume event of `step` ends what
// stays too. -1: nothing stays. A torn last line and lines that are no JSON object move; a line without a step belongs to the line before.
// At any kill every line is in one of the two files at least, and both are durable. A missing file has no lines.
MetricsCut truncate_after(const std::filesystem::path& path, std::int64_t step);

// Whether the file holds a whole line {"event": name, "step": step, …}.
bool has_event(const std::filesystem::path& path, const std::string& name, std::int64_t step);

}  // namespace meristem
