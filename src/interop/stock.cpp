#include "interop/stock.h"

#include <algorithm>
#include <cstring>
#include <set>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "core/errors.h"
#include "core/text.h"
#include "interop/element_types.h"

namespace meristem {
namespace {

// Of the gains of norms.
double gain_offset(const Family& family) { return family.gemma ? 1 : 0; }

// The tensors of one layer, ours and theirs.
class LayerParts {
 public:
  LayerParts(std::vector<WeightPart>& parts, const Family& family, const ModelConfig& model, std::int64_t layer)
      : parts_(parts),
        family_(family),
        model_(model),
        theirs_(fmt::format("model.layers.{}.", layer)),
        ours_(fmt::format("blocks.{}.", layer)) {}

  void add(const Multipliers& multipliers) {
    const std::int64_t width = model_.width, inner = model_.feed_forward.inner;
    if (norms_inputs(family_.norm)) add_norm("input_layernorm", "attention.norm");
    add_projection("weight", {width}, multipliers);
    if (family_.qkv_bias) add_projection("bias", {}, multipliers);
    if (family_.qk_norm) {
      add_qk_norm("q_norm.weight", model_.attention.heads);
      add_qk_norm("k_norm.weight", model_.attention.kv_heads);
    }
    add("self_attn.o_proj.weight", "attention.output.weight", {width, query_}).scale = multipliers.residual;
    if (norms_outputs(family_.norm)) {
      add_norm("post_attention_layernorm", "attention_output_norm");
      add_norm("post_feedforward_layernorm", "feed_forward_output_norm");
    }
    if (family_.norm == Norm::kPre) add_norm("post_attention_layernorm", "feed_forward.norm");
    if (family_.norm == Norm::kBoth) add_norm("pre_feedforward_layernorm", "feed_forward.norm");
    if (family_.packed) {
      add("mlp.gate_up_proj.weight", "feed_forward.gate_up.weight", {2 * inner, width});
    } else {
      add("mlp.gate_proj.weight", "feed_forward.gate_up.weight", {inner, width});
      add("mlp.up_proj.weight", "feed_forward.gate_up.weight", {inner, width}).first_row = inner;
    }
    add("mlp.down_proj.weight", "feed_forward.down.weight", {width, inner}).scale = multipliers.residual;
  }

 private:
  WeightPart& add(const std::string& theirs, const std::string& ours, std::vector<std::int64_t> shape) {
    return parts_.emplace_back(WeightPart{theirs_ + theirs, ours_ + ours, std::move(shape)});
  }

  void add_norm(const std::string& theirs, const std::string& ours) {
    add(theirs + ".weight", ours + ".weight", {model_.width}).offset = gain_offset(family_);
  }

  // A gain for each row of a head, or of all heads: it goes where its row goes.
  void add_qk_norm(const std::string& name, std::int64_t heads) {
    const std::int64_t normed = family_.qk_norm_over == QkNormOver::kAll ? heads : 1;
    add("self_attn." + name, "attention." + name, {normed * model_.attention.head_dim}).rope_heads = normed;
  }

  // Weight or bias: `columns` are the sizes behind the rows.
  void add_projection(const std::string& kind, std::vector<std::int64_t> columns, const Multipliers& multipliers) {
    const std::string ours = "attention.qkv." + kind;
    const auto shape = [&](std::int64_t rows) {
      std::vector<std::int64_t> sizes{rows};
      sizes.insert(sizes.end(), columns.begin(), columns.end());
      return sizes;
    };
    if (family_.packed) {
      add("self_attn.qkv_proj." + kind, ours, shape(query_ + 2 * kv_));
      return;
    }
    WeightPart& query = add("self_attn.q_proj." + kind, ours, shape(query_));
    query.rope_heads = model_.attention.heads;
    query.scale = multipliers.query;
    WeightPart& key = add("self_attn.k_proj." + kind, ours, shape(kv_));
    key.rope_heads = model_.attention.kv_heads;
    key.first_row = query_;
    add("self_attn.v_proj." + kind, ours, shape(kv_)).first_row = query_ + kv_;
  }

  std::vector<WeightPart>& parts_;
  const Family& family_;
  const ModelConfig& model_;
  std::string theirs_, ours_;
  std::int64_t query_ = model_.attention.heads * model_.attention.head_dim, kv_ = model_.attention.kv_heads * model_.attention.head_dim;
};

constexpr const char* kHead = "lm_head.weight";
constexpr const char* kEmbedding = "model.embed_tokens.weight";

}  // namespace

std::vector<WeightPart> stock_parts(const Family& family, const ModelConfig& model, const Multipliers& multipliers, bool tied_in_file) {
  const std::vector<std::int64_t> table{model.vocab_size, model.width};
  std::vector<WeightPart> parts{{kEmbedding, "embedding.weight", table}};
  parts.back().scale = multipliers.embedding;
  for (std::int64_t i = 0; i < model.blocks; ++i) LayerParts(parts, family, model, i).add(multipliers);
  parts.push_back({"model.norm.weight", "norm.weight", {model.width}});
  parts.back().offset = gain_offset(family);
  if (!model.tie_embeddings) {
    parts.push_back({tied_in_file ? kEmbedding : kHead, "head.weight", table});
    parts.back().scale = multipliers.logits;
  }
  return parts;
}

std::int64_t half_layout_row(std::int64_t row, std::int64_t head_dim) {
  const std::int64_t head = row / head_dim, within = row % head_dim;
  return head * head_dim + within / 2 + (within % 2) * (head_dim / 2);
}

namespace {

// Old files keep RoPE's frequencies as a tensor; they follow from the config.
bool follows_from_config(const std::string& name) { return name.ends_with(".rotary_emb.inv_freq"); }

void refuse_unknown_tensors(const TensorFolder& folder, const std::vector<WeightPart>& parts, bool tied) {
  std::vector<std::string> known;
  for (const WeightPart& part : parts) known.push_back(part.theirs);
  if (tied) known.emplace_back(kHead);
  std::sort(known.begin(), known.end());
  for (const std::string& name : folder.names()) {
    if (follows_from_config(name) || std::binary_search(known.begin(), known.end(), name)) continue;
    throw InputError(fmt::format("{}: tensor {}: a model of this config has no such tensor", folder.file_of(name), printable(name)));
  }
}

// A file may hold a tied head all the same; it must be the embedding.
void check_tied_head(const TensorFolder& folder) {
  if (!folder.has(kHead)) return;
  const TensorView &head = folder.at(kHead), &embedding = folder.at(kEmbedding);
  if (head.dtype == embedding.dtype && head.shape == embedding.shape && std::memcmp(head.data, embedding.data, head.bytes()) == 0) return;
  throw InputError(fmt::format("{}: tensor {} differs from {}, but config.json says tie_word_embeddings: true", folder.file_of(kHead),
                               kHead, kEmbedding));
}

void read_part(const TensorFolder& folder, const WeightPart& part, const StockConfig& config, float* rows) {
  const TensorView& tensor = folder.at(part.theirs);
  if (tensor.shape != part.shape) {
    throw InputError(fmt::format("{}: tensor {}: found shape [{}], config.json gives [{}]", folder.file_of(part.theirs), part.theirs,
                                 fmt::join(tensor.shape, ", "), fmt::join(part.shape, ", ")));
  }
  const std::span<float> out(rows, static_cast<std::size_t>(part.elements()));
  widen(tensor, folder.file_of(part.theirs), out);
  if (part.scale != 1 || part.offset != 0) {
    for (float& value : out) value = static_cast<float>(value * part.scale + part.offset);
  }
  if (!config.rope_interleaved || part.rope_heads == 0) return;
  const std::vector<float> interleaved(out.begin(), out.end());
  const std::int64_t columns = part.row_elements();
  for (std::int64_t row = 0; row < part.shape[0]; ++row) {
    std::copy_n(interleaved.data() + row * columns, columns, rows + half_layout_row(row, config.model.attention.head_dim) * columns);
  }
}

}  // namespace

ImportedModel import_stock(const std::filesystem::path& folder, std::optional<bool> rope_interleaved) {
  ImportedModel out;
  out.config = read_stock_config(folder);
  if (rope_interleaved) out.config.rope_interleaved = *rope_interleaved;
  if (out.config.rope_interleaved && out.config.family->packed)
    throw InputError(fmt::format("{}: a model of type {} has its rows in halves", folder.string(), out.config.family->model_type));
  const TensorFolder tensors = TensorFolder::open(folder);
  const std::vector<WeightPart> parts = stock_parts(*out.config.family, out.config.model, out.config.multipliers, out.config.tied_in_file);
  refuse_unknown_tensors(tensors, parts, out.config.tied_in_file);
  // Every tensor must be there before room is made: a config alone could ask for any amount.
  for (const WeightPart& part : parts) static_cast<void>(tensors.at(part.theirs));
  if (out.config.tied_in_file) check_tied_head(tensors);

  for (std::size_t begin = 0, end = 0; begin < parts.size(); begin = end) {
    std::int64_t rows = 0;
    while (end < parts.size() && parts[end].ours == parts[begin].ours) rows += parts[end++].shape[0];
    std::vector<std::int64_t> shape = parts[begin].shape;
    shape[0] = rows;
    std::vector<float>& bytes = out.weights.bytes.emplace_back(static_cast<std::size_t>(rows * parts[begin].row_elements()));
    for (std::size_t i = begin; i < end; ++i)
      read_part(tensors, parts[i], out.config, bytes.data() + parts[i].first_row * parts[i].row_elements());
    out.weights.views.push_back({parts[begin].ours, Dtype::kF32, shape, bytes.data()});
  }
  return out;
}

HfExported export_stock(const SafetensorsFile& weights, const Family& family, const ModelConfig& model, std::int64_t sequence_length,
                        const HfExport& options, const std::filesystem::path& out) {
  const std::vector<WeightPart> parts = stock_parts(family, model);
  std::set<std::string> known;
  for (const WeightPart& part : parts) known.insert(part.ours);
  for (const TensorView& tensor : weights.tensors()) {
    if (!known.contains(tensor.name))
      throw InputError(fmt::format("{}: tensor {}: {} has no place for it", weights.path().string(), tensor.name, family.class_name));
  }
  const nlohmann::ordered_json base = base_config(options.companions);
  return write_hf_folder(weights, parts, stock_config_json(family, model, export_positions(sequence_length, base), base),
                         weight_type(options.dtype, base), options, {}, out);
}

}  // namespace meristem
