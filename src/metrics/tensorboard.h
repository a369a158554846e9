// TensorBoard event files, written natively: TFRecord frames with masked crc32c around hand-encoded protobuf events.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

namespace meristem {

class EventWriter {
 public:
  // Creates `folder` where missing, and in it a new file events.out.tfevents.<time>.<host>.<pid>. A resumed run says the step it
  // goes on after: readers then drop what an earlier file of the folder holds past it.
  explicit EventWriter(const std::filesystem::path& folder, std::optional<std::int64_t> resumed_after_step = std::nullopt);
  ~EventWriter();  // flushes; errors are dropped: call flush() to see them
  EventWriter(const EventWriter&) = delete;
  EventWriter& operator=(const EventWriter&) = delete;

  void add_scalar(std::string_view tag, double value, std::int64_t step);  // stored as float32, as TensorBoard does
  void flush();                                                            // SystemError names the file
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  int fd_ = -1;
  std::string pending_;  // whole records that are not in the file yet

  void add_record(std::string_view event);
};

// CRC-32C (Castagnoli), and the form in which TFRecord stores it.
std::uint32_t crc32c(std::string_view bytes);
std::uint32_t masked_crc32c(std::string_view bytes);

}  // namespace meristem
