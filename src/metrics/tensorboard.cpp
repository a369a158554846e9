#include "metrics/tensorboard.h"

#include <array>
#include <bit>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <climits>
#include <cmath>

#include <fcntl.h>
#include <unistd.h>

#include <fmt/format.h>

#include "core/errors.h"
#include "core/file.h"

namespace meristem {
namespace {

constexpr std::size_t kFlushAt = 64 << 10;  // bytes that wait before they are written by themselves

constexpr std::array<std::uint32_t, 256> make_crc_table() {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t i = 0; i < 256; ++i) {
    std::uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82F63B78u : 0u);
    table[i] = crc;
  }
  return table;
}
constexpr auto kCrcTable = make_crc_table();

template <typename T>
void put_little_endian(std::string& out, T value) {
  for (std::size_t i = 0; i < sizeof(T); ++i) out += static_cast<char>((value >> (8 * i)) & 0xFF);
}

// Protobuf's wire format: a field is a varint of (number << 3 | type), then its value.
enum WireType : std::uint32_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

void put_varint(std::string& out, std::uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>((value & 0x7F) | 0x80);
  out += static_cast<char>(value);
}

void put_key(std::string& out, std::uint32_t field, WireType type) { put_varint(out, (field << 3) | type); }

void put_bytes(std::string& out, std::uint32_t field, std::string_view bytes) {
  put_key(out, field, kBytes);
  put_varint(out, bytes.size());
  out += bytes;
}

void put_double(std::string& out, std::uint32_t field, double value) {
  put_key(out, field, kFixed64);
  put_little_endian(out, std::bit_cast<std::uint64_t>(value));
}

void put_number(std::string& out, std::uint32_t field, std::uint64_t value) {
  put_key(out, field, kVarint);
  put_varint(out, value);
}

double seconds_since_1970() { return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count(); }

// TensorProto{dtype = 1, tensor_shape = 2: {dim = 2: {size = 1}}, string_val = 8}, of one dimension.
std::string tensor(std::uint64_t dtype, std::uint64_t size) {
  std::string length, shape, out;
  put_number(length, 1, size);
  put_bytes(shape, 2, length);
  put_number(out, 1, dtype);
  put_bytes(out, 2, shape);
  return out;
}

constexpr std::uint64_t kFloat = 1, kString = 7;  // DataType

// google.protobuf.Value{number_value = 2, string_value = 3, bool_value = 4}.
std::string protobuf_value(const HParam& value) {
  std::string out;
  if (const auto* number = std::get_if<double>(&value)) put_double(out, 2, *number);
  if (const auto* text = std::get_if<std::string>(&value)) put_bytes(out, 3, *text);
  if (const auto* flag = std::get_if<bool>(&value)) put_number(out, 4, *flag ? 1 : 0);
  return out;
}

constexpr std::string_view kHParams = "hparams";  // the plugin's name

// tensorflow.Event: wall_time = 1 (double), step = 2 (int64), file_version = 3, summary = 5, session_log = 7.
std::string event_at(std::int64_t step) {
  std::string event;
  put_double(event, 1, seconds_since_1970());
  put_number(event, 2, static_cast<std::uint64_t>(step));
  return event;
}

std::string host_name() {
  std::array<char, HOST_NAME_MAX + 1> name{};
  if (::gethostname(name.data(), name.size() - 1) != 0 || name[0] == '\0') return "localhost";
  return name.data();
}

// Two writers of one process in one second get files of their own: the second waits for no one, it takes the next number.
int create_event_file(const std::filesystem::path& folder, std::filesystem::path& path) {
  const auto now = std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count();
  for (int n = 0;; ++n) {
    path = folder / fmt::format("events.out.tfevents.{:010d}.{}.{}{}", now, host_name(), ::getpid(), n == 0 ? "" : fmt::format(".{}", n));
    const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0644);
    if (fd >= 0) return fd;
    if (errno != EEXIST) throw_errno(path, "cannot be created");
  }
}

}  // namespace

HParam hparam_of(const std::string& text) {
  if (text.size() >= 2 && text.front() == '"' && text.back() == '"') {
    std::string inside;
    for (std::size_t i = 1; i + 1 < text.size(); ++i) {
      if (text[i] == '\\' && i + 2 < text.size()) ++i;
      inside += text[i];
    }
    return inside;
  }
  if (text == "true" || text == "false") return text == "true";
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error == std::errc() && end == text.data() + text.size() && std::isfinite(number)) return number;
  return text;
}

std::uint32_t crc32c(std::string_view bytes) {
  std::uint32_t crc = 0xFFFFFFFFu;
  for (const char byte : bytes) crc = (crc >> 8) ^ kCrcTable[(crc ^ static_cast<unsigned char>(byte)) & 0xFF];
  return ~crc;
}

std::uint32_t masked_crc32c(std::string_view bytes) { return std::rotr(crc32c(bytes), 15) + 0xA282EAD8u; }

EventWriter::EventWriter(const std::filesystem::path& folder, std::optional<std::int64_t> resumed_after_step) {
  std::error_code failed;
  std::filesystem::create_directories(folder, failed);
  if (failed) {
    errno = failed.value();
    throw_errno(folder, "cannot be created");
  }
  fd_ = create_event_file(folder, path_);
  std::string first = event_at(0);
  put_bytes(first, 3, "brain.Event:2");
  add_record(first);
  if (resumed_after_step) {
    // SessionLog{status = 1: START}: readers drop scalars of earlier files from this step on.
    std::string session;
    put_number(session, 1, 1);
    std::string start = event_at(*resumed_after_step + 1);
    put_bytes(start, 7, session);
    add_record(start);
  }
  flush();
}

EventWriter::~EventWriter() {
  try {
    flush();
  } catch (const Error&) {
    // A destructor cannot report; whoever cares has called flush().
  }
  ::close(fd_);
}

// TFRecord: length (8 bytes), its masked crc, the bytes, their masked crc; all little-endian.
void EventWriter::add_record(std::string_view event) {
  std::string length;
  put_little_endian(length, static_cast<std::uint64_t>(event.size()));
  pending_ += length;
  put_little_endian(pending_, masked_crc32c(length));
  pending_ += event;
  put_little_endian(pending_, masked_crc32c(event));
  if (pending_.size() >= kFlushAt) flush();
}

// Summary{value = 1: …}.
void EventWriter::add_summary(std::string_view value, std::int64_t step) {
  std::string summary, event = event_at(step);
  put_bytes(summary, 1, value);
  put_bytes(event, 5, summary);
  add_record(event);
}

// Value{tag = 1, simple_value = 2 (float)}.
void EventWriter::add_scalar(std::string_view tag, double value, std::int64_t step) {
  std::string scalar;
  put_bytes(scalar, 1, tag);
  put_key(scalar, 2, kFixed32);
  put_little_endian(scalar, std::bit_cast<std::uint32_t>(static_cast<float>(value)));
  add_summary(scalar, step);
}

// Value{tag = 1, tensor = 8, metadata = 9: {plugin_data = 1: {plugin_name = 1, content = 2}}}.
void EventWriter::add_plugin_value(std::string_view tag, std::string_view plugin, std::string_view content, std::string_view tensor,
                                   std::int64_t step) {
  std::string data, metadata, value;
  put_bytes(data, 1, plugin);
  put_bytes(data, 2, content);
  put_bytes(metadata, 1, data);
  put_bytes(value, 1, tag);
  put_bytes(value, 8, tensor);
  put_bytes(value, 9, metadata);
  add_summary(value, step);
}

void EventWriter::add_text(std::string_view tag, std::string_view markdown, std::int64_t step) {
  std::string text = tensor(kString, 1);
  put_bytes(text, 8, markdown);
  add_plugin_value(tag, "text", "", text, step);
}

// HParamsPluginData{version = 1 (0), session_start_info = 3: {hparams = 1 (map), group_name = 4, start_time_secs = 5}}.
void EventWriter::add_hparams(const std::string& name, const std::vector<std::pair<std::string, HParam>>& values, std::int64_t step) {
  std::string session, content;
  for (const auto& [key, value] : values) {
    std::string entry;
    put_bytes(entry, 1, key);
    put_bytes(entry, 2, protobuf_value(value));
    put_bytes(session, 1, entry);
  }
  put_bytes(session, 4, name);
  put_double(session, 5, seconds_since_1970());
  put_bytes(content, 3, session);
  add_plugin_value("_hparams_/session_start_info", kHParams, content, tensor(kFloat, 0), step);
}

// HParamsPluginData{session_end_info = 4: {status = 1 (1: success, 2: failure), end_time_secs = 2}}.
void EventWriter::add_end(bool success, std::int64_t step) {
  std::string session, content;
  put_number(session, 1, success ? 1 : 2);
  put_double(session, 2, seconds_since_1970());
  put_bytes(content, 4, session);
  add_plugin_value("_hparams_/session_end_info", kHParams, content, tensor(kFloat, 0), step);
}

void EventWriter::flush() {
  std::string_view left = pending_;
  while (!left.empty()) {
    const ssize_t put = ::write(fd_, left.data(), left.size());
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) {
      pending_.erase(0, pending_.size() - left.size());
      throw_errno(path_, "cannot be written");
    }
    left.remove_prefix(static_cast<std::size_t>(put));
  }
  pending_.clear();
}

}  // namespace meristem
