#include "checkpoint/safetensors.h"

#include <algorithm>
#include <limits>
#include <set>
#include <string_view>

#include <fmt/format.h>

#include "core/errors.h"
#include "core/json.h"
#include "core/text.h"

namespace meristem {
namespace {

constexpr std::uint64_t kLengthBytes = 8;

struct Entry {
  TensorView tensor;
  std::uint64_t begin = 0, end = 0;  // offsets into the data
};

// False where the product does not fit in 64 bits.
bool multiply(std::uint64_t a, std::uint64_t b, std::uint64_t& out) { return !__builtin_mul_overflow(a, b, &out); }

Entry read_entry(const std::string& name, const JsonCursor& json) {
  json.allow_only({"dtype", "shape", "data_offsets"});
  Entry entry;
  entry.tensor.name = name;
  const JsonCursor dtype = json.at("dtype");
  const std::string dtype_text = dtype.text();
  if (!parse_dtype(dtype_text, entry.tensor.dtype)) {
    dtype.fail("unknown dtype " + in_quotes(dtype_text) + "; known: F64, F32, F16, BF16, I64, I32, I16, I8, U8, BOOL");
  }
  const JsonCursor shape = json.at("shape");
  entry.tensor.shape = shape.integers(0);
  const JsonCursor offsets_json = json.at("data_offsets");
  const std::vector<std::int64_t> offsets = offsets_json.integers(0);
  if (offsets.size() != 2) offsets_json.fail(fmt::format("found {} numbers, expected 2: begin and end", offsets.size()));
  entry.begin = static_cast<std::uint64_t>(offsets[0]);
  entry.end = static_cast<std::uint64_t>(offsets[1]);
  if (entry.end < entry.begin) offsets_json.fail(fmt::format("ends at {} before it begins at {}", entry.end, entry.begin));

  // As the reference does it: overflow is refused even where another dimension is 0.
  std::uint64_t bytes = dtype_bytes(entry.tensor.dtype);
  for (const std::int64_t size : entry.tensor.shape) {
    if (!multiply(bytes, static_cast<std::uint64_t>(size), bytes)) shape.fail("number of bytes overflows 64 bits");
  }
  if (bytes != entry.end - entry.begin) {
    offsets_json.fail(fmt::format("span {} bytes, but shape [{}] of {} takes {}", entry.end - entry.begin,
                                  fmt::join(entry.tensor.shape, ", "), dtype_text, bytes));
  }
  return entry;
}

void check_contiguous(const std::vector<Entry>& entries, std::uint64_t data_bytes, const std::string& origin) {
  std::uint64_t at = 0;
  for (const Entry& entry : entries) {
    if (entry.begin != at) {
      throw DamagedError(fmt::format("{}: {}.data_offsets: begins at {}, {} the previous tensor's end at {}", origin,
                                     printable(entry.tensor.name), entry.begin, entry.begin > at ? "leaving a hole after" : "overlapping",
                                     at));
    }
    at = entry.end;
  }
  if (at != data_bytes) {
    throw DamagedError(at > data_bytes
                           ? fmt::format("{}: truncated: tensors take {} bytes of data, the file holds {}", origin, at, data_bytes)
                           : fmt::format("{}: {} trailing bytes after the last tensor", origin, data_bytes - at));
  }
}

}  // namespace

std::int64_t TensorView::elements() const {
  std::int64_t count = 1;
  for (const std::int64_t size : shape) count *= size;
  return count;
}

std::size_t TensorView::bytes() const { return static_cast<std::size_t>(elements()) * dtype_bytes(dtype); }

SafetensorsFile SafetensorsFile::open(const std::filesystem::path& path) {
  SafetensorsFile file(path);
  file.read_header();
  return file;
}

void SafetensorsFile::read_header() {
  const std::string origin = path().string();
  const std::span<const std::byte> bytes = file_.bytes();
  if (bytes.size() < kLengthBytes)
    throw DamagedError(fmt::format("{}: truncated: {} bytes, a header length takes 8", origin, bytes.size()));
  std::uint64_t header_bytes = 0;
  for (std::size_t i = 0; i < kLengthBytes; ++i) header_bytes |= std::to_integer<std::uint64_t>(bytes[i]) << (8 * i);
  if (header_bytes > kMaxSafetensorsHeader) {
    throw DamagedError(fmt::format("{}: byte 0: header length {}, at most {} is allowed", origin, header_bytes, kMaxSafetensorsHeader));
  }
  if (header_bytes > bytes.size() - kLengthBytes) {
    throw DamagedError(
        fmt::format("{}: byte 0: header length {}, but only {} bytes follow", origin, header_bytes, bytes.size() - kLengthBytes));
  }
  const auto* text = reinterpret_cast<const char*>(bytes.data());
  if (header_bytes == 0 || text[kLengthBytes] != '{')
    throw DamagedError(fmt::format("{}: byte 8: the header does not begin with '{{'", origin));

  const std::string header_origin = origin + ": header";
  const nlohmann::json header = parse_json_strict({text + kLengthBytes, header_bytes}, header_origin);
  std::vector<Entry> entries;
  const JsonCursor root(header, header_origin);
  for (const auto& item : header.items()) {
    const std::string& name = item.key();
    const JsonCursor json = root.at(name);
    if (name == "__metadata__") {
      for (const auto& [key, value] : json.members()) metadata_.emplace(key, value.text());
    } else {
      entries.push_back(read_entry(name, json));
    }
  }
  std::stable_sort(entries.begin(), entries.end(),
                   [](const Entry& a, const Entry& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
  const std::uint64_t data_at = kLengthBytes + header_bytes;
  check_contiguous(entries, bytes.size() - data_at, header_origin);

  for (Entry& entry : entries) {
    entry.tensor.data = bytes.data() + data_at + entry.begin;
    index_.emplace(entry.tensor.name, tensors_.size());
    tensors_.push_back(std::move(entry.tensor));
  }
}

const TensorView& SafetensorsFile::at(const std::string& name) const {
  const auto found = index_.find(name);
  if (found == index_.end()) throw DamagedError(fmt::format("{}: tensor {} is missing", path().string(), in_quotes(name)));
  return tensors_[found->second];
}

namespace {

constexpr std::uint64_t kAlignment = 64;  // of the data's first byte: a cache line, and any vector load

std::vector<const TensorView*> file_order(std::span<const TensorView> tensors) {
  std::vector<const TensorView*> order;
  for (const TensorView& tensor : tensors) order.push_back(&tensor);
  std::stable_sort(order.begin(), order.end(),
                   [](const TensorView* a, const TensorView* b) { return dtype_bytes(a->dtype) > dtype_bytes(b->dtype); });
  return order;
}

std::string json_string(const std::string& text) {
  try {
    return nlohmann::json(text).dump();
  } catch (const nlohmann::json::type_error&) {
    throw InputError("safetensors: " + in_quotes(text) + " is not valid UTF-8");
  }
}

// Length, JSON, spaces: all that stands before the data.
std::string header_text(const std::vector<const TensorView*>& order, const std::map<std::string, std::string>& metadata) {
  std::vector<std::string> members;
  if (!metadata.empty()) {
    std::vector<std::string> pairs;
    for (const auto& [key, value] : metadata) pairs.push_back(json_string(key) + ":" + json_string(value));
    members.push_back(fmt::format("\"__metadata__\":{{{}}}", fmt::join(pairs, ",")));
  }
  std::set<std::string_view> names{"__metadata__"};
  std::uint64_t at = 0;
  for (const TensorView* tensor : order) {
    if (!names.insert(tensor->name).second) throw InputError("safetensors: tensor name " + in_quotes(tensor->name) + " is taken");
    members.push_back(fmt::format("{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}", json_string(tensor->name),
                                  dtype_name(tensor->dtype), fmt::join(tensor->shape, ","), at, at + tensor->bytes()));
    at += tensor->bytes();
  }
  std::string json = fmt::format("{{{}}}", fmt::join(members, ","));
  json.append((kAlignment - (8 + json.size()) % kAlignment) % kAlignment, ' ');
  if (json.size() > kMaxSafetensorsHeader) throw InputError(fmt::format("safetensors: header of {} bytes is too long", json.size()));
  std::string length(8, '\0');
  for (std::size_t i = 0; i < length.size(); ++i) length[i] = static_cast<char>(json.size() >> (8 * i) & 0xFF);
  return length + json;
}

}  // namespace

std::uint64_t safetensors_size(std::span<const TensorView> tensors, const std::map<std::string, std::string>& metadata) {
  std::uint64_t bytes = header_text(file_order(tensors), metadata).size();
  for (const TensorView& tensor : tensors) bytes += tensor.bytes();
  return bytes;
}

FileDigest write_safetensors(const std::filesystem::path& path, std::span<const TensorView> tensors,
                             const std::map<std::string, std::string>& metadata) {
  const std::vector<const TensorView*> order = file_order(tensors);
  const std::string header = header_text(order, metadata);
  HashedFile file(path);
  file.write(header.data(), header.size());
  for (const TensorView* tensor : order) file.write(tensor->data, tensor->bytes());
  return file.close_durably();
}

}  // namespace meristem
