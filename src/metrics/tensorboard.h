// TensorBoard event files, written natively: TFRecord frames with masked crc32c around hand-encoded protobuf events.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace meristem {

// A value that TensorBoard can sort and filter runs by.
using HParam = std::variant<double, bool, std::string>;
// What a text of a config is: true, 0.003, "a text in quotes" and everything else.
HParam hparam_of(const std::string& text);

class EventWriter {
 public:
  // Creates `folder` where missing, and in it a new file events.out.tfevents.<time>.<host>.<pid>. A resumed run says the step it
  // goes on after: readers then drop what an earlier file of the folder holds past it.
  explicit EventWriter(const std::filesystem::path& folder, std::optional<std::int64_t> resumed_after_step = std::nullopt);
  ~EventWriter();  // flushes; errors are dropped: call flush() to see them
  EventWriter(const EventWriter&) = delete;
  EventWriter& operator=(const EventWriter&) = delete;

  void add_scalar(std::string_view tag, double value, std::int64_t step);  // stored as float32, as TensorBoard does
  void add_text(std::string_view tag, std::string_view markdown, std::int64_t step);
  // What the hparams plugin lists a run with; its metrics are the folder's scalars. `name` is the session group's.
  void add_hparams(const std::string& name, const std::vector<std::pair<std::string, HParam>>& values, std::int64_t step);
  // How it ended, for the same plugin.
  void add_end(bool success, std::int64_t step);
  void flush();  // SystemError names the file
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  int fd_ = -1;
  std::string pending_;  // whole records that are not in the file yet

  void add_record(std::string_view event);
  void add_summary(std::string_view value, std::int64_t step);
  void add_plugin_value(std::string_view tag, std::string_view plugin, std::string_view content, std::string_view tensor,
                        std::int64_t step);
};

// CRC-32C (Castagnoli), and the form in which TFRecord stores it.
std::uint32_t crc32c(std::string_view bytes);
std::uint32_t masked_crc32c(std::string_view bytes);

}  // namespace meristem
