#include "growth/remap.h"

#include <charconv>
#include <map>
#include <optional>
#include <vector>

#include <fmt/format.h>
#include <torch/torch.h>

#include "core/errors.h"

namespace meristem {
namespace {

// "exp_avg.blocks.3.norm.weight" -> {"exp_avg.", 3, ".norm.weight"}
struct BlockName {
  std::string before;
  std::int64_t block;
  std::string after;
  std::string with(std::int64_t other) const { return fmt::format("{}blocks.{}{}", before, other, after); }
};

std::optional<BlockName> parse_block_name(const std::string& name) {
  static const std::string kPart = "blocks.";
  std::size_t at = name.rfind(kPart, 0) == 0 ? 0 : name.find("." + kPart);
  if (at == std::string::npos) return std::nullopt;
  if (name[at] == '.') ++at;
  const char* digits = name.data() + at + kPart.size();
  BlockName parsed{name.substr(0, at), 0, {}};
  const auto [end, error] = std::from_chars(digits, name.data() + name.size(), parsed.block);
  if (error != std::errc() || end == name.data() + name.size() || *end != '.') return std::nullopt;
  parsed.after = name.substr(static_cast<std::size_t>(end - name.data()));
  return parsed;
}

}  // namespace

NamedTensors remap(const NamedTensors& old, const SourceMap& source_of) {
  torch::NoGradGuard no_grad;
  // Tensors of each block under the name of their kind, "exp_avg.blocks.*.norm.weight", in the order of the first block that has it.
  std::vector<BlockName> kinds;
  std::map<std::string, std::map<std::int64_t, at::Tensor>> by_kind;
  std::int64_t blocks = 0;
  for (const auto& [name, tensor] : old) {
    const auto parsed = parse_block_name(name);
    if (!parsed) continue;
    auto& group = by_kind[parsed->before + parsed->after];
    if (group.empty()) kinds.push_back(*parsed);
    group.emplace(parsed->block, tensor);
    blocks = std::max(blocks, parsed->block + 1);
  }
  check_source_map(source_of, blocks);

  NamedTensors out;
  bool blocks_done = false;
  for (const auto& [name, tensor] : old) {
    if (!parse_block_name(name)) {
      out.add(name, tensor.detach().clone());
      continue;
    }
    if (blocks_done) continue;
    blocks_done = true;
    for (std::size_t i = 0; i < source_of.size(); ++i) {
      for (const BlockName& kind : kinds) {
        const auto& group = by_kind.at(kind.before + kind.after);
        const auto found = group.find(source_of[i]);
        if (found == group.end()) throw InputError(fmt::format("{}: is missing; blocks must all hold the same tensors", kind.with(source_of[i])));
        out.add(kind.with(static_cast<std::int64_t>(i)), found->second.detach().clone());
      }
    }
  }
  return out;
}

void zero_inserted_moments(NamedTensors& state, const SourceMap& source_of) {
  torch::NoGradGuard no_grad;
  const std::vector<bool> inserted = inserted_blocks(source_of);
  for (const auto& [name, tensor] : state) {
    const auto parsed = parse_block_name(name);
    if (parsed && inserted.at(static_cast<std::size_t>(parsed->block))) at::Tensor(tensor).zero_();
  }
}

}  // namespace meristem
