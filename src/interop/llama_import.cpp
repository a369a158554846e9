#include "interop/llama_import.h"

#include <algorithm>
#include <cstring>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "core/errors.h"
#include "core/text.h"
#include "interop/element_types.h"
#include "interop/llama_parts.h"
#include "interop/tensor_folder.h"

namespace meristem {
namespace {

constexpr const char* kHead = "lm_head.weight";

// Old files keep RoPE's frequencies as a tensor; they follow from the config.
bool follows_from_config(const std::string& name) { return name.ends_with(".rotary_emb.inv_freq"); }

void refuse_unknown_tensors(const TensorFolder& folder, const std::vector<LlamaPart>& parts, bool tied) {
  std::vector<std::string> known;
  for (const LlamaPart& part : parts) known.push_back(part.theirs);
  if (tied) known.emplace_back(kHead);
  std::sort(known.begin(), known.end());
  for (const std::string& name : folder.names()) {
    if (follows_from_config(name) || std::binary_search(known.begin(), known.end(), name)) continue;
    throw InputError(fmt::format("{}: tensor {}: a Llama of this config has no such tensor", folder.file_of(name), printable(name)));
  }
}

// A file may hold a tied head all the same; it must be the embedding.
void check_tied_head(const TensorFolder& folder) {
  if (!folder.has(kHead)) return;
  const TensorView &head = folder.at(kHead), &embedding = folder.at("model.embed_tokens.weight");
  if (head.dtype == embedding.dtype && head.shape == embedding.shape && std::memcmp(head.data, embedding.data, head.bytes()) == 0) return;
  throw InputError(fmt::format("{}: tensor {} differs from model.embed_tokens.weight, but config.json says tie_word_embeddings: true",
                               folder.file_of(kHead), kHead));
}

void read_part(const TensorFolder& folder, const LlamaPart& part, const LlamaConfig& config, float* rows) {
  const TensorView& tensor = folder.at(part.theirs);
  if (tensor.shape != part.shape) {
    throw InputError(fmt::format("{}: tensor {}: found shape [{}], config.json gives [{}]", folder.file_of(part.theirs), part.theirs,
                                 fmt::join(tensor.shape, ", "), fmt::join(part.shape, ", ")));
  }
  const auto elements = static_cast<std::size_t>(part.elements());
  if (!config.rope_interleaved || part.rope_heads == 0) {
    widen(tensor, folder.file_of(part.theirs), {rows, elements});
    return;
  }
  std::vector<float> interleaved(elements);
  widen(tensor, folder.file_of(part.theirs), interleaved);
  const std::int64_t columns = part.row_elements();
  for (std::int64_t row = 0; row < part.shape[0]; ++row) {
    std::copy_n(interleaved.data() + row * columns, columns, rows + half_layout_row(row, config.model.attention.head_dim) * columns);
  }
}

}  // namespace

ImportedLlama import_llama(const std::filesystem::path& folder, std::optional<bool> rope_interleaved) {
  ImportedLlama out;
  out.config = read_llama_config(folder);
  if (rope_interleaved) out.config.rope_interleaved = *rope_interleaved;
  const TensorFolder tensors = TensorFolder::open(folder);
  const ModelConfig& model = out.config.model;
  const std::vector<LlamaPart> parts = llama_parts(model);
  refuse_unknown_tensors(tensors, parts, model.tie_embeddings);
  // Every tensor must be there before room is made: a config alone could ask for any amount.
  for (const LlamaPart& part : parts) static_cast<void>(tensors.at(part.theirs));
  if (model.tie_embeddings) check_tied_head(tensors);

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

}  // namespace meristem
