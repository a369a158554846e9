#include "metrics/tensorboard.h"

#include <array>
#include <bit>
#include <cerrno>
#include <chrono>
#include <climits>

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

// tensorflow.Event: wall_time = 1 (double), step = 2 (int64), file_version = 3, summary = 5, session_log = 7.
std::string event_at(std::int64_t step) {
  const std::chrono::duration<double> now = std::chrono::system_clock::now().time_since_epoch();
  std::string event;
  put_key(event, 1, kFixed64);
  put_little_endian(event, std::bit_cast<std::uint64_t>(now.count()));
  put_key(event, 2, kVarint);
  put_varint(event, static_cast<std::uint64_t>(step));
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
    put_key(session, 1, kVarint);
    put_varint(session, 1);
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

// Summary{value = 1: Value{tag = 1, simple_value = 2 (float)}}.
void EventWriter::add_scalar(std::string_view tag, double value, std::int64_t step) {
  std::string scalar;
  put_bytes(scalar, 1, tag);
  put_key(scalar, 2, kFixed32);
  put_little_endian(scalar, std::bit_cast<std::uint32_t>(static_cast<float>(value)));
  std::string summary;
  put_bytes(summary, 1, scalar);
  std::string event = event_at(step);
  put_bytes(event, 5, summary);
  add_record(event);
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
