#include <algorithm>
#include <set>

#include <fmt/format.h>

#include "checkpoint/safetensors.h"
#include "core/errors.h"
#include "core/json.h"
#include "core/text.h"

namespace meristem {
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
