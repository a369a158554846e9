#include <algorithm>

#include "checkpoint/safetensors.h"
#include "fuzz/format.h"
#include "fuzz/mutate.h"
#include "fuzz/tensor_mutation.h"

namespace meristem::fuzz {

void mutate_safetensors(std::string& bytes, Dice& dice) {
  if (bytes.size() < 8 || dice.chance(0.2)) return mutate_bytes(bytes, dice);
  if (dice.chance(0.1)) return put_integer(bytes, 0, 8, extreme_integer(dice, get_integer(bytes, 0, 8)));
  // Edit the header, and mostly keep its length true, so that the damage lies behind the first check.
  const std::size_t length = static_cast<std::size_t>(std::min<std::uint64_t>(get_integer(bytes, 0, 8), bytes.size() - 8));
  std::string header = bytes.substr(8, length);
  for (std::size_t i = 0; i <= dice.below(3); ++i) mutate_text(header, dice);
  bytes.replace(8, length, header);
  if (dice.chance(0.95)) put_integer(bytes, 0, 8, header.size());
}

void touch(const SafetensorsFile& file) {
  volatile unsigned char sink = 0;
  for (const TensorView& tensor : file.tensors()) {
    const auto* data = static_cast<const unsigned char*>(tensor.data);
    unsigned char sum = 0;
    for (std::size_t i = 0; i < tensor.bytes(); ++i) sum = static_cast<unsigned char>(sum + data[i]);
    sink = static_cast<unsigned char>(sink + sum);
  }
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
      for (int i = 0; i < 3; ++i) many.push_back({std::string(dtype_name(dtype)) + "." + std::to_string(i), dtype, {2, 3, 1}, bytes.data()});
    }
    std::vector<Files> out;
    const auto add = [&](const std::vector<TensorView>& tensors, const std::map<std::string, std::string>& metadata) {
      write_safetensors(scratch / "file.safetensors", tensors, metadata);
      out.push_back(files_below(scratch));
    };
    add(few, {});
    add(many, {{"format", "pt"}, {"step", "5"}});
    add({}, {{"a", "b"}});
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
