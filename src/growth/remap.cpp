#include "growth/remap.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <torch/torch.h>

#include "core/errors.h"
#include "core/text.h"

namespace meristem {
namespace {

// What a block holds under one name: {"exp_avg.blocks.", ".norm.weight"}.
using Kind = std::pair<std::string, std::string>;

struct BlockName {
  Kind kind;
  std::int64_t block;
};

std::string name_of(const Kind& kind, std::int64_t block) { return fmt::format("{}{}{}", kind.first, block, kind.second); }

// "exp_avg.blocks.3.norm.weight" -> {{"exp_avg.blocks.", ".norm.weight"}, 3}; nothing for a tensor outside the blocks.
std::optional<BlockName> parse_block_name(const std::string& name, std::string_view block_prefix) {
  const std::string part = fmt::format("{}.", block_prefix);
  std::size_t at = 0;
  if (!name.starts_with(part)) {
    at = name.find("." + part);
    if (at == std::string::npos) return std::nullopt;
    ++at;
  }
  const std::size_t digits = at + part.size();
  const std::size_t end = std::min(name.find('.', digits), name.size());
  std::int64_t block = 0;
  const auto [stop, error] = std::from_chars(name.data() + digits, name.data() + end, block);
  // Two spellings of one number would be two tensors with one place to go.
  if (error != std::errc() || block < 0 || end == name.size() || name.substr(digits, end - digits) != std::to_string(block)) {
    throw InputError(fmt::format("{}: block numbers are written {}0., {}1., …", in_quotes(name), part, part));
  }
  return BlockName{{name.substr(0, digits), name.substr(end)}, block};
}

at::Tensor copy_of(const at::Tensor& tensor) { return tensor.detach().clone(at::MemoryFormat::Contiguous); }

// The tensors of all blocks, by kind; kinds in the order in which they first appear.
struct Blocks {
  std::vector<Kind> kinds;
  std::map<Kind, std::map<std::int64_t, at::Tensor>> tensors;
  std::int64_t count = 0;
};

Blocks collect_blocks(const NamedTensors& old, std::string_view block_prefix) {
  Blocks blocks;
  for (const auto& [name, tensor] : old) {
    const auto parsed = parse_block_name(name, block_prefix);
    if (!parsed) continue;
    auto& same_kind = blocks.tensors[parsed->kind];
    if (same_kind.empty()) blocks.kinds.push_back(parsed->kind);
    same_kind.emplace(parsed->block, tensor);
    // Whole blocks cannot outnumber the tensors; a number from a damaged name must not size a table.
    if (parsed->block >= static_cast<std::int64_t>(old.size())) {
      throw InputError(
          fmt::format("{}: block {} of {} tensors; blocks are numbered without gaps", in_quotes(name), parsed->block, old.size()));
    }
    blocks.count = std::max(blocks.count, parsed->block + 1);
  }
  return blocks;
}

void add_blocks(NamedTensors& out, const Blocks& blocks, const SourceMap& source_of) {
  for (std::size_t i = 0; i < source_of.size(); ++i) {
    for (const Kind& kind : blocks.kinds) {
      const auto& same_kind = blocks.tensors.at(kind);
      const auto found = same_kind.find(source_of[i]);
      if (found == same_kind.end()) {
        throw InputError(fmt::format("{}: is missing; blocks must all hold the same tensors", name_of(kind, source_of[i])));
      }
      out.add(name_of(kind, static_cast<std::int64_t>(i)), copy_of(found->second));
    }
  }
}

}  // namespace

NamedTensors remap(const NamedTensors& old, const SourceMap& source_of, std::string_view block_prefix) {
  const torch::NoGradGuard no_grad;
  const Blocks blocks = collect_blocks(old, block_prefix);
  check_source_map(source_of, blocks.count);
  NamedTensors out;
  bool blocks_added = false;
  for (const auto& [name, tensor] : old) {
    if (!parse_block_name(name, block_prefix)) {
      out.add(name, copy_of(tensor));
    } else if (!std::exchange(blocks_added, true)) {
      add_blocks(out, blocks, source_of);
    }
  }
  return out;
}

std::function<bool(const std::string&)> begins_with(std::vector<std::string> prefixes) {
  return [prefixes = std::move(prefixes)](const std::string& name) {
    return std::any_of(prefixes.begin(), prefixes.end(), [&](const std::string& prefix) { return name.starts_with(prefix); });
  };
}

void zero_inserted(NamedTensors& tensors, const SourceMap& source_of, const std::function<bool(const std::string&)>& chosen,
                   std::string_view block_prefix) {
  const torch::NoGradGuard no_grad;
  const std::vector<bool> inserted = inserted_blocks(source_of);
  for (const auto& [name, tensor] : tensors) {
    if (!chosen(name)) continue;
    const auto parsed = parse_block_name(name, block_prefix);
    if (!parsed) continue;
    if (parsed->block >= static_cast<std::int64_t>(inserted.size())) {
      throw InputError(fmt::format("{}: the growth map has blocks 0 to {}", name, static_cast<std::int64_t>(inserted.size()) - 1));
    }
    if (inserted[static_cast<std::size_t>(parsed->block)]) tensor.zero_();
  }
}

}  // namespace meristem
