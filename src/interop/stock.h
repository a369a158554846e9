// A model of transformers' stock classes as a model of ours, and a plain decoder of ours as a folder that they load without code of its
// own: one list of which rows of our tensors are which of theirs, for both ways. families.h has the classes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/safetensors.h"
#include "interop/families.h"
#include "interop/hf_folder.h"

namespace meristem {

// All tensors of `model` with `model.blocks` blocks; the parts of one of ours stand together, in the order of their rows. RoPE is in halves
// in both, so that no row moves: (i, i + head_dim/2) is a pair. tied_in_file: their head is their embedding, where ours may be two.
std::vector<WeightPart> stock_parts(const Family& family, const ModelConfig& model, const Multipliers& multipliers = {},
                                    bool tied_in_file = false);

// Row of the half layout where row `row` of the interleaved layout goes: pair (2i, 2i+1) of a head becomes (i, i + head_dim/2).
std::int64_t half_layout_row(std::int64_t row, std::int64_t head_dim);

struct ImportedTensors {
  std::vector<TensorView> views;          // by our names, fp32
  std::vector<std::vector<float>> bytes;  // what they point into
};

struct ImportedModel {
  StockConfig config;
  ImportedTensors weights;
};

// Reads the whole model. `rope_interleaved` overrides what config.json says about the order of query and key rows.
// InputError: a config that read_stock_config refuses, a tensor missing, unknown or of another shape; tied embeddings whose lm_head.weight
// differs. DamagedError: damaged files.
ImportedModel import_stock(const std::filesystem::path& folder, std::optional<bool> rope_interleaved = std::nullopt);

// Writes the folder `out`; it appears whole or not at all. `model.blocks` is the checkpoint's, and `family` one that computes it
// (stock_family). InputError: `out` exists; tensors that the class has no place for.
HfExported export_stock(const SafetensorsFile& weights, const Family& family, const ModelConfig& model, std::int64_t sequence_length,
                        const HfExport& options, const std::filesystem::path& out);

}  // namespace meristem
