#include "growth/remap.h"

#include <cstring>
#include <set>

#include <torch/torch.h>

#include "core/errors.h"
#include "support/catch.h"

using namespace meristem;

namespace {

const char* const kKinds[] = {"attention.qkv.weight", "feed_forward.norm.weight"};

const std::vector<std::string> kPrefixes{"exp_avg.", "exp_avg_sq.", "step."};

std::string block_name(std::size_t block, const std::string& rest) { return "blocks." + std::to_string(block) + "." + rest; }

NamedTensors weights(std::int64_t blocks) {
  NamedTensors tensors;
  tensors.add("embedding.weight", torch::rand({5, 3}).set_requires_grad(true));
  for (std::int64_t i = 0; i < blocks; ++i) {
    for (const char* kind : kKinds) tensors.add(block_name(static_cast<std::size_t>(i), kind), torch::rand({4, 3}).set_requires_grad(true));
  }
  tensors.add("norm.weight", torch::rand({3}));
  return tensors;
}

NamedTensors optimizer_state(std::int64_t blocks) {
  NamedTensors state;
  for (const char* moment : {"exp_avg.", "exp_avg_sq."}) {
    for (const auto& [name, tensor] : weights(blocks)) state.add(moment + name, torch::rand_like(tensor) + 1);
  }
  state.add("step.embedding", torch::scalar_tensor(99, torch::kLong));
  for (std::int64_t i = 0; i < blocks; ++i) {
    for (const char* group : {"decay", "no_decay"}) {
      state.add("step." + block_name(static_cast<std::size_t>(i), group), torch::scalar_tensor(10 + i, torch::kLong));
    }
  }
  return state;
}

bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  return a.dtype() == b.dtype() && a.sizes() == b.sizes() &&
         std::memcmp(a.contiguous().data_ptr(), b.contiguous().data_ptr(), a.nbytes()) == 0;
}

// Every tensor of the result is its source bit for bit, and none is missing or too many.
void check_remapped(const NamedTensors& old, const NamedTensors& grown, const SourceMap& map, const std::vector<std::string>& block_parts,
                    const std::vector<std::string>& others) {
  CHECK(grown.size() == others.size() + block_parts.size() * map.size());
  for (const std::string& name : others) CHECK(same_bits(grown.at(name), old.at(name)));
  for (const std::string& part : block_parts) {
    const auto cut = part.find('*');
    for (std::size_t i = 0; i < map.size(); ++i) {
      INFO(part << " of block " << i);
      const auto named = [&](std::int64_t block) { return part.substr(0, cut) + std::to_string(block) + part.substr(cut + 1); };
      CHECK(same_bits(grown.at(named(static_cast<std::int64_t>(i))), old.at(named(map[i]))));
    }
  }
}

std::string refusal(const NamedTensors& old, const SourceMap& map) {
  try {
    remap(old, map);
  } catch (const InputError& error) {
    return error.what();
  }
  return "accepted";
}

bool mentions(const std::string& message, const std::string& part) { return message.find(part) != std::string::npos; }

// An example with one more tensor.
NamedTensors with(NamedTensors tensors, const std::string& name) {
  tensors.add(name, torch::rand({1}));
  return tensors;
}

}  // namespace

TEST_CASE("block i of the result is block source_of[i] bit for bit") {
  for (const SourceMap& map :
       {grow_map(GrowthOperator::kLidas, 8, 4), grow_map(GrowthOperator::kMidas, 8, 4), grow_map(GrowthOperator::kAppend, 8, 3),
        grow_map(GrowthOperator::kStack, 8, 8), SourceMap{7, 6, 5, 4, 3, 2, 1, 0, 0, 0}}) {
    const NamedTensors old = weights(8), state = optimizer_state(8);
    check_remapped(old, remap(old, map), map, {"blocks.*.attention.qkv.weight", "blocks.*.feed_forward.norm.weight"},
                   {"embedding.weight", "norm.weight"});
    check_remapped(
        state, remap(state, map), map,
        {"exp_avg.blocks.*.attention.qkv.weight", "exp_avg_sq.blocks.*.attention.qkv.weight", "exp_avg.blocks.*.feed_forward.norm.weight",
         "exp_avg_sq.blocks.*.feed_forward.norm.weight", "step.blocks.*.decay", "step.blocks.*.no_decay"},
        {"exp_avg.embedding.weight", "exp_avg_sq.embedding.weight", "exp_avg.norm.weight", "exp_avg_sq.norm.weight", "step.embedding"});
  }
}

TEST_CASE("nothing is tied: a change of one tensor changes no other, old or new") {
  const SourceMap map = grow_map(GrowthOperator::kLidas, 12, 4);
  const NamedTensors old = weights(12), grown = remap(old, map);
  std::set<const void*> storages;
  for (const auto& [name, tensor] : grown) storages.insert(tensor.storage().data());
  for (const auto& [name, tensor] : old) storages.insert(tensor.storage().data());
  CHECK(storages.size() == grown.size() + old.size());
  const NamedTensors reference = remap(old, map);
  for (const auto& [name, tensor] : grown) {
    CHECK_FALSE(tensor.requires_grad());
    tensor.zero_();
    for (const auto& [other, value] : grown) {
      if (other != name) CHECK(same_bits(value, reference.at(other)));
    }
    tensor.copy_(reference.at(name));
  }
  const at::Tensor before = old.at("norm.weight").clone();
  grown.at("norm.weight").zero_();
  CHECK(same_bits(old.at("norm.weight"), before));
}

TEST_CASE("order, dtypes and views") {
  NamedTensors old;
  const at::Tensor flat = torch::arange(24, torch::kFloat);
  old.add("head.weight", torch::ones({2}, torch::kBFloat16));
  old.add("blocks.0.w", flat.slice(0, 0, 6).view({2, 3}));
  old.add("blocks.1.w", flat.slice(0, 6, 12).view({3, 2}).t());
  old.add("blocks.0.v", flat.slice(0, 12, 18));
  old.add("blocks.1.v", flat.slice(0, 18, 24));
  old.add("norm.weight", torch::full({1}, 2.0, torch::kDouble));
  const NamedTensors grown = remap(old, {0, 1, 1});
  std::vector<std::string> names;
  for (const auto& [name, tensor] : grown) {
    names.push_back(name);
    CHECK(tensor.is_contiguous());
    CHECK(tensor.storage().nbytes() == tensor.nbytes());  // its own numbers, not a view of the flat buffer
  }
  CHECK(names == std::vector<std::string>{"head.weight", "blocks.0.w", "blocks.0.v", "blocks.1.w", "blocks.1.v", "blocks.2.w", "blocks.2.v",
                                          "norm.weight"});
  CHECK(grown.at("head.weight").dtype() == torch::kBFloat16);
  CHECK(grown.at("norm.weight").dtype() == torch::kDouble);
  CHECK(torch::equal(grown.at("blocks.2.w"), old.at("blocks.1.w")));
}

TEST_CASE("another block prefix") {
  NamedTensors old;
  old.add("model.layers.0.w", torch::zeros({1}));
  old.add("model.layers.1.w", torch::ones({1}));
  old.add("model.blocks.x", torch::ones({1}));
  const NamedTensors grown = remap(old, {0, 1, 1}, "model.layers");
  CHECK(grown.size() == 4);
  CHECK(torch::equal(grown.at("model.layers.2.w"), old.at("model.layers.1.w")));
}

TEST_CASE("zeroed moments are those of the inserted copies alone") {
  const SourceMap map = grow_map(GrowthOperator::kMidas, 4, 2);
  const NamedTensors copied = remap(optimizer_state(4), map);
  NamedTensors zeroed = remap(copied, {0, 1, 2, 3, 4, 5});
  zero_inserted(zeroed, map, begins_with(kPrefixes));
  const auto inserted = inserted_blocks(map);
  int zeros = 0;
  for (const auto& [name, tensor] : zeroed) {
    INFO(name);
    const auto at = name.find("blocks.");
    const bool should_be_zero = at != std::string::npos && inserted[static_cast<std::size_t>(name[at + 7] - '0')];
    CHECK((tensor.abs().max().item<double>() == 0) == should_be_zero);
    if (!should_be_zero) CHECK(same_bits(tensor, copied.at(name)));
    zeros += should_be_zero;
  }
  CHECK(zeros == 2 * (2 * 2 + 2));  // two copies; two moments of two weights, two step counts
}

TEST_CASE("zeroing leaves weights alone and refuses a map of fewer blocks") {
  NamedTensors model = weights(3);
  zero_inserted(model, {0, 1, 1}, begins_with(kPrefixes));
  CHECK(model.at("blocks.2.attention.qkv.weight").abs().max().item<float>() > 0);
  NamedTensors state = optimizer_state(3);
  CHECK_THROWS_AS(zero_inserted(state, {0, 0}, begins_with(kPrefixes)), InputError);
}

TEST_CASE("maps that do not fit the tensors are refused") {
  CHECK(mentions(refusal(weights(3), {0, 1, 2, 3}), "entry 3 is 3; allowed: blocks 0 to 2"));
  CHECK(mentions(refusal(weights(3), {0, 1}), "block 2 is used nowhere"));
  CHECK(mentions(refusal(weights(3), {}), "is empty"));
  CHECK(mentions(refusal(weights(0), {0}), "entry 0 is 0"));
}

TEST_CASE("blocks that differ, or are misnumbered, are refused by name") {
  CHECK(mentions(refusal(with(weights(2), "blocks.1.extra"), {0, 0, 1}), "blocks.0.extra: is missing"));
  CHECK(mentions(refusal(with(weights(2), "blocks.0.extra"), {0, 0, 1}), "blocks.1.extra: is missing"));
  CHECK(mentions(refusal(with(weights(2), "blocks.3.attention.qkv.weight"), {0, 1, 2, 3}), "blocks.2.attention.qkv.weight: is missing"));
  CHECK(mentions(refusal(with(weights(2), "blocks.01.attention.qkv.weight"), {0, 1}), "'blocks.01.attention.qkv.weight'"));
  CHECK(mentions(refusal(with(weights(2), "blocks.-1.w"), {0, 1}), "'blocks.-1.w'"));
  CHECK(mentions(refusal(with(weights(2), "blocks.x.w"), {0, 1}), "'blocks.x.w'"));
  CHECK(mentions(refusal(with(weights(2), "blocks.1"), {0, 1}), "'blocks.1'"));
  CHECK(mentions(refusal(with(weights(2), "blocks.99999999999999999999.w"), {0, 1}), "block numbers are written"));
  CHECK(mentions(refusal(with(weights(2), "blocks.999999999999.w"), {0, 1}), "numbered without gaps"));
}

TEST_CASE("a name twice, or none, is a bug and says so") {
  NamedTensors tensors;
  tensors.add("b", torch::ones({1}));
  tensors.add("a", torch::ones({2}));
  CHECK_THROWS_AS(tensors.add("b", torch::ones({1})), c10::Error);
  CHECK_THROWS_AS(tensors.at("c"), c10::Error);
  CHECK(tensors.size() == 2);
  CHECK(tensors.contains("a"));
  CHECK_FALSE(tensors.contains("c"));
  CHECK(tensors.begin()->first == "b");  // the order of insertion
}
