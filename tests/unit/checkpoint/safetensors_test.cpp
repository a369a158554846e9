#include "checkpoint/safetensors.h"

#include <cstring>
#include <limits>

#include "support/catch.h"
#include "support/sample_checkpoint.h"
#include "support/temp_dir.h"

using namespace meristem;
using namespace meristem::test;

TEST_CASE("tensors of every dtype come back bit for bit, with their order among equal widths, and aligned") {
  const TempDir dir;
  const std::vector<Dtype> dtypes{Dtype::kU8,  Dtype::kBF16, Dtype::kI64, Dtype::kF32, Dtype::kBool, Dtype::kF64,
                                  Dtype::kF16, Dtype::kI32,  Dtype::kI16, Dtype::kI8,  Dtype::kF32};
  std::vector<std::vector<char>> bytes;
  std::vector<TensorView> tensors;
  for (std::size_t i = 0; i < dtypes.size(); ++i) {
    bytes.emplace_back(3 * 5 * dtype_bytes(dtypes[i]));
    for (std::size_t j = 0; j < bytes[i].size(); ++j) bytes[i][j] = static_cast<char>(i * 31 + j);
    tensors.push_back({"t" + std::to_string(i), dtypes[i], {3, 5}, nullptr});
  }
  for (std::size_t i = 0; i < dtypes.size(); ++i) tensors[i].data = bytes[i].data();
  tensors.push_back({"scalar \"é\" \n", Dtype::kI64, {}, bytes[2].data()});
  tensors.push_back({"none", Dtype::kF32, {7, 0}, nullptr});

  const FileDigest digest = write_safetensors(dir / "a.safetensors", tensors, {{"k", "v\n"}, {"", ""}});
  const SafetensorsFile file = SafetensorsFile::open(dir / "a.safetensors");
  CHECK(digest.bytes == file.file_bytes().size());
  CHECK(digest.bytes == safetensors_size(tensors, {{"k", "v\n"}, {"", ""}}));
  CHECK(digest.xxh3 == xxh3_hex(file.file_bytes()));
  CHECK(file.metadata() == std::map<std::string, std::string>{{"k", "v\n"}, {"", ""}});
  REQUIRE(file.tensors().size() == tensors.size());
  for (const TensorView& expected : tensors) {
    const TensorView& found = file.at(expected.name);
    CHECK(found.dtype == expected.dtype);
    CHECK(found.shape == expected.shape);
    CHECK((expected.bytes() == 0 || std::memcmp(found.data, expected.data, expected.bytes()) == 0));
    CHECK(reinterpret_cast<std::uintptr_t>(found.data) % dtype_bytes(found.dtype) == 0);
  }
  const auto data_at = static_cast<const std::byte*>(file.tensors()[0].data) - file.file_bytes().data();
  CHECK(data_at % 64 == 0);
  CHECK(file.tensors()[0].name == "t2");
  CHECK(file.tensors()[1].name == "t5");
}

TEST_CASE("a file without tensors is a file") {
  const TempDir dir;
  write_safetensors(dir / "a.safetensors", {}, {});
  CHECK(SafetensorsFile::open(dir / "a.safetensors").tensors().empty());
}

TEST_CASE("names that no reader could tell apart or decode are not written") {
  const TempDir dir;
  const float x = 1;
  const auto write = [&](const std::vector<TensorView>& tensors) {
    return message_of<InputError>([&] { write_safetensors(dir / "a.safetensors", tensors, {}); });
  };
  CHECK(contains(write({{"a", Dtype::kF32, {1}, &x}, {"a", Dtype::kF32, {1}, &x}}), "'a' is taken"));
  CHECK(contains(write({{"__metadata__", Dtype::kF32, {1}, &x}}), "'__metadata__' is taken"));
  CHECK(contains(write({{"\xff", Dtype::kF32, {1}, &x}}), "'\\xff' is not valid UTF-8"));
  CHECK_FALSE(std::filesystem::exists(dir / "a.safetensors"));
}
