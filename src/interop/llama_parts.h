// Which rows of our packed tensors are which tensor of LlamaForCausalLM. One list serves both directions.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "config/run_config.h"

namespace meristem {

// Rows [first_row, first_row + shape[0]) of our tensor `ours` are the tensor `theirs`. Ours have as many rows as their parts together:
// qkv = q, k, v and gate_up = gate, up, one under the other.
struct LlamaPart {
  std::string theirs, ours;
  std::vector<std::int64_t> shape;  // of theirs
  std::int64_t first_row = 0;
  std::int64_t rope_heads = 0;  // heads that RoPE turns; 0 for other tensors
  std::int64_t elements() const;
  std::int64_t row_elements() const { return elements() / shape[0]; }
};

// All tensors of `model` with `model.blocks` blocks; the parts of one of ours stand together, in the order of their rows.
// RoPE is in halves in both, so that no row moves: (i, i + head_dim/2) is a pair.
std::vector<LlamaPart> llama_parts(const ModelConfig& model);

// Row of the half layout where row `row` of the interleaved layout goes: pair (2i, 2i+1) of a head becomes (i, i + head_dim/2).
std::int64_t half_layout_row(std::int64_t row, std::int64_t head_dim);

}  // namespace meristem
