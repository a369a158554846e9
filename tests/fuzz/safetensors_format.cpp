#include <algorithm>
#include <stdexcept>

#include <nlohmann/json.hpp>

#include "checkpoint/safetensors.h"
#include "fuzz/format.h"
#include "fuzz/mutate.h"
#include "fuzz/tensor_mutation.h"

namespace meristem::fuzz {
namespace {

// Numbers of the header changed so that they still agree with each other in part: what single edits of the text hardly reach.
void mutate_header_members(std::string& header, Dice& dice) {
  auto json = nlohmann::json::parse(header, nullptr, false);
  std::vector<nlohmann::json*> entries;
  if (!json.is_object()) return;
  for (auto& item : json) {
    if (item.is_object() && item.contains("data_offsets") && item["data_offsets"].size() == 2 &&
        item["data_offsets"][0].is_number_unsigned() && item["data_offsets"][1].is_number_unsigned()) {
      entries.push_back(&item);
    }
  }
  if (entries.empty()) return;
  nlohmann::json& entry = *dice.pick(entries);
  nlohmann::json& offsets = entry["data_offsets"];
  const auto begin = offsets[0].get<std::uint64_t>(), end = offsets[1].get<std::uint64_t>();
  switch (dice.below(6)) {
    case 0: {  // moved as a whole
      const std::uint64_t by = extreme_integer(dice, 4);
      offsets = {begin + by, end + by};
      break;
    }
    case 1: offsets = (*dice.pick(entries))["data_offsets"]; break;
    case 2: entry["shape"] = (*dice.pick(entries))["shape"]; break;
    case 3: entry["dtype"] = (*dice.pick(entries))["dtype"]; break;
    case 4: {  // longer or shorter, with a shape that says so
      const std::uint64_t size = extreme_integer(dice, end - begin);
      entry["dtype"] = "U8";
      entry["shape"] = {size};
      offsets[1] = begin + size;
      break;
    }
    default: {  // two more sizes whose product is 1 modulo 2^64: only a check for overflow sees them
      const std::uint64_t size = (dice.word() >> 2) | 1;
      std::uint64_t inverse = size;
      for (int i = 0; i < 6; ++i) inverse *= 2 - size * inverse;
      entry["shape"].push_back(size);
      entry["shape"].push_back(inverse);
      break;
    }
  }
  header = json.dump();
}

}  // namespace

void mutate_safetensors(std::string& bytes, Dice& dice) {
  if (bytes.size() < 8 || dice.chance(0.2)) return mutate_bytes(bytes, dice);
  if (dice.chance(0.1)) return put_integer(bytes, 0, 8, extreme_integer(dice, get_integer(bytes, 0, 8)));
  // Edit the header, and mostly keep its length true, so that the damage lies behind the first check.
  const std::size_t length = static_cast<std::size_t>(std::min<std::uint64_t>(get_integer(bytes, 0, 8), bytes.size() - 8));
  std::string header = bytes.substr(8, length);
  for (std::size_t i = 0; i <= dice.below(3); ++i) dice.chance(0.3) ? mutate_header_members(header, dice) : mutate_text(header, dice);
  bytes.replace(8, length, header);
  if (dice.chance(0.95)) put_integer(bytes, 0, 8, header.size());
}

void touch(const SafetensorsFile& file) {
  // Bounds are checked here as well: behind a small file the mapping goes on to the end of the page, which no sanitizer minds.
  const auto* begin = reinterpret_cast<const unsigned char*>(file.file_bytes().data());
  std::size_t left = file.file_bytes().size() - 8 - static_cast<std::size_t>(get_integer(std::string(begin, begin + 8), 0, 8));
  volatile unsigned char sink = 0;
  for (const TensorView& tensor : file.tensors()) {
    const auto* data = static_cast<const unsigned char*>(tensor.data);
    const auto room = static_cast<std::size_t>(begin + file.file_bytes().size() - data);
    if (data < begin || tensor.bytes() > room || tensor.bytes() > left) throw std::logic_error("a tensor reaches beyond its file");
    left -= tensor.bytes();
    unsigned char sum = 0;
    for (std::size_t i = 0; i < tensor.bytes(); ++i) sum = static_cast<unsigned char>(sum + data[i]);
    sink = static_cast<unsigned char>(sink + sum);
  }
  if (left != 0) throw std::logic_error("bytes that belong to no tensor were accepted");
}

namespace {

class Safetensors : public Format {
 public:
  std::string name() const override { return "safetensors"; }

  std::vector<Files> seeds(const std::filesystem::path& scratch) const override {
    std::vector<unsigned char> bytes(400, 7);
    const std::vector<TensorView> few{{"weight", Dtype::kF32, {4, 5}, bytes.data()}};
    std::vector<TensorView> many{{"empty", Dtype::kF32, {0, 5}, bytes.data()}, {"scalar", Dtype::kI64, {}, bytes.data()}};
    for (const Dtype dtype : {Dtype::kF64, Dtype::kBF16, Dtype::kI8, Dtype::kBool}) {
      for (int i = 0; i < 3; ++i)
        many.push_back({std::string(dtype_name(dtype)) + "." + std::to_string(i), dtype, {2, 3, 1}, bytes.data()});
    }
    std::vector<Files> out;
    const auto add = [&](const std::vector<TensorView>& tensors, const std::map<std::string, std::string>& metadata) {
      write_safetensors(scratch / "file.safetensors", tensors, metadata);
      out.push_back(files_below(scratch));
    };
    add(few, {});
    add(many, {{"format", "pt"}, {"step", "5"}});
    add({}, {{"a", "b"}});
    // Ends with a page, so that reading on is a fault.
    bytes.resize(4096 - 128);
    add({{"page", Dtype::kU8, {4096 - 128}, bytes.data()}}, {});
    return out;
  }

  void mutate(Files& files, const Files& other, Dice& dice) const override {
    std::string& bytes = files.begin()->second;
    if (dice.chance(0.05)) bytes = bytes.substr(0, dice.below(bytes.size())) + other.begin()->second;
    mutate_safetensors(bytes, dice);
  }

  void read(const std::filesystem::path& folder) const override { touch(SafetensorsFile::open(folder / "file.safetensors")); }
};

}  // namespace

std::unique_ptr<Format> safetensors_format() { return std::make_unique<Safetensors>(); }

}  // namespace meristem::fuzz
