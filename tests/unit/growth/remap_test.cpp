#include "growth/remap.h"

#include <set>

#include <torch/torch.h>

#include "core/errors.h"
#include "support/catch.h"

using namespace meristem;

namespace {

NamedTensors example(std::int64_t blocks) {
  NamedTensors tensors;
  tensors.add("embedding.weight", torch::rand({5, 3}));
  for (std::int64_t i = 0; i < blocks; ++i) {
    const std::string block = "blocks." + std::to_string(i);
    tensors.add(block + ".attention.qkv.weight", torch::rand({4, 3}));
    tensors.add("exp_avg." + block + ".attention.qkv.weight", torch::rand({4, 3}));
    tensors.add("step." + block + ".decay", torch::scalar_tensor(10 + i, torch::kLong));
  }
  tensors.add("norm.weight", torch::rand({3}));
  return tensors;
}

}  // namespace

TEST_CASE("block i of the result is block source_of[i] bit for bit, and nothing is tied") {
  const NamedTensors old = example(12);
  const SourceMap map = grow_map(GrowthOperator::kLidas, 12, 4);
  const NamedTensors grown = remap(old, map);
  REQUIRE(grown.size() == 2 + 3 * 16);
  std::set<const void*> storages;
  for (const auto& [name, tensor] : grown) storages.insert(tensor.data_ptr());
  for (const auto& [name, tensor] : old) storages.insert(tensor.data_ptr());
  CHECK(storages.size() == grown.size() + old.size());
  for (std::size_t i = 0; i < map.size(); ++i) {
    const std::string to = "blocks." + std::to_string(i), from = "blocks." + std::to_string(map[i]);
    CHECK(torch::equal(grown.at(to + ".attention.qkv.weight"), old.at(from + ".attention.qkv.weight")));
    CHECK(torch::equal(grown.at("exp_avg." + to + ".attention.qkv.weight"), old.at("exp_avg." + from + ".attention.qkv.weight")));
    CHECK(torch::equal(grown.at("step." + to + ".decay"), old.at("step." + from + ".decay")));
  }
  CHECK(torch::equal(grown.at("norm.weight"), old.at("norm.weight")));
  CHECK(torch::equal(grown.at("embedding.weight"), old.at("embedding.weight")));
}

TEST_CASE("zeroed moments are those of the inserted copies alone") {
  const SourceMap map = grow_map(GrowthOperator::kMidas, 4, 2);
  NamedTensors grown = remap(example(4), map);
  zero_inserted_moments(grown, map);
  const auto inserted = inserted_blocks(map);
  for (std::size_t i = 0; i < map.size(); ++i) {
    const std::string block = "blocks." + std::to_string(i);
    CHECK((grown.at("exp_avg." + block + ".attention.qkv.weight").abs().max().item<float>() == 0) == inserted[i]);
    CHECK((grown.at("step." + block + ".decay").item<std::int64_t>() == 0) == inserted[i]);
  }
}

TEST_CASE("maps that do not fit the tensors are refused") {
  const NamedTensors old = example(3);
  CHECK_THROWS_AS(remap(old, {0, 1, 2, 3}), InputError);
  CHECK_THROWS_AS(remap(old, {0, 1}), InputError);
  NamedTensors uneven = example(2);
  uneven.add("blocks.1.extra", torch::rand({1}));
  CHECK_THROWS_WITH(remap(uneven, {0, 0, 1}), Catch::Contains("blocks.0.extra: is missing"));
}
