// A Hugging Face folder of any model, read and written: weights in safetensors files, one or many, and what travels beside them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "checkpoint/safetensors.h"
#include "config/run_config.h"
#include "core/model_part.h"

namespace meristem {

// The tensors of such a folder: model.safetensors, or shards under model.safetensors.index.json.
class TensorFolder {
 public:
  // InputError where there are no safetensors; DamagedError where index and shards do not agree, or one is damaged.
  static TensorFolder open(const std::filesystem::path& folder);

  bool has(const std::string& name) const { return places_.contains(name); }
  const TensorView& at(const std::string& name) const;  // InputError where it is missing
  std::string file_of(const std::string& name) const;   // path, for messages
  std::vector<std::string> names() const;

 private:
  std::filesystem::path folder_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, std::size_t> places_;  // index into files_
  void add(const std::filesystem::path& path, const std::set<std::string>* expected);
};

// Rows [first_row, first_row + shape[0]) of our tensor `ours` are the tensor `theirs`. Ours have as many rows as their parts together:
// qkv = q, k, v and gate_up = gate, up, one under the other.
struct WeightPart {
  std::string theirs, ours;
  std::vector<std::int64_t> shape;  // of theirs
  std::int64_t first_row = 0;
  std::int64_t rope_heads = 0;  // heads that RoPE turns; 0 for other tensors
  double scale = 1;             // ours are theirs times this; 1 on the way out
  double offset = 0;            // ours are theirs plus this
  std::int64_t elements() const;
  std::int64_t row_elements() const { return elements() / shape[0]; }
};

struct WeightType {
  const char* ours;    // fp32
  const char* theirs;  // float32
  Dtype dtype;
};

// The type that `asked` names (fp32 | bf16 | fp16); empty: that of the config.json `base`, else fp32. InputError for another name.
const WeightType& weight_type(const std::string& asked, const nlohmann::ordered_json& base);

// What travels with a model but is not its weights: tokenizer, chat template, generation defaults, the config.json it came with. Copies
// those of FROM's files into TO, byte for byte and durably; returns their names. config: config.json too.
std::vector<std::string> copy_companions(const std::filesystem::path& from, const std::filesystem::path& to, bool config);

struct HfExport {
  std::filesystem::path companions;  // folder with tokenizer, chat template and config.json (token ids, dtype) to carry along; empty: none
  std::string dtype;                 // fp32 | bf16 | fp16; empty: that of the companions' config.json, else fp32
  std::uint64_t shard_bytes = 5'000'000'000;
};

struct HfExported {
  std::string dtype;
  std::vector<std::string> companions;  // names of the files carried along
  std::size_t files = 0;
  std::int64_t overflows = 0;  // finite weights that became infinite in the smaller type
};

// What the model came with: the companions' config.json. Empty where there is none, or that of no family of ours (interop/families.h).
nlohmann::ordered_json base_config(const std::filesystem::path& companions);

// Positions that the exported model may be asked for: those it was trained with, or came with.
std::int64_t export_positions(std::int64_t sequence_length, const nlohmann::ordered_json& base);

// Writes the folder `out`, which appears whole or not at all: the tensors that `parts` cut out of `weights`, in files of about
// options.shard_bytes with their index, or in one; `config` as config.json, to which dtype is added; companions; `texts`, further files by
// name. InputError: `out` exists. DamagedError: a tensor that does not hold its parts.
HfExported write_hf_folder(const SafetensorsFile& weights, const std::vector<WeightPart>& parts, nlohmann::ordered_json config,
                           const WeightType& type, const HfExport& options, const std::vector<std::pair<std::string, std::string>>& texts,
                           const std::filesystem::path& out);

// The text of modeling_meristem.py, a part of this program.
extern const char* const kModelingCode;

// Any model of ours as a folder that transformers loads with trust_remote_code: our tensors by our names, and modeling_meristem.py to
// compute them. `model.blocks` and `plan`, the text with its loop as a group, are the checkpoint's; `parts` are the mixers of a block, as
// its model says. config.json carries the plan, and loading may give another one (depth_plan=, repeats=). InputError: `out` exists, a part
// that transformers cannot compute; DamagedError: tensors that are not fp32.
HfExported export_with_code(const SafetensorsFile& weights, const ModelConfig& model, const std::vector<ModelPart>& parts,
                            const std::string& plan, std::int64_t sequence_length, const HfExport& options,
                            const std::filesystem::path& out);

}  // namespace meristem
