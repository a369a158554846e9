#include "interop/llama_export.h"

#include <set>

#include <fmt/format.h>

#include "core/errors.h"
#include "interop/llama_config.h"

namespace meristem {
namespace {

void refuse_other_models(const SafetensorsFile& weights, const ModelConfig& model, const std::vector<LlamaPart>& parts) {
  const std::string file = weights.path().string();
  const std::string why = not_a_llama(model, DepthPlan::plain(model.blocks));
  if (!why.empty()) throw InputError(fmt::format("{}: {}", file, why));
  std::set<std::string> known;
  for (const LlamaPart& part : parts) known.insert(part.ours);
  for (const TensorView& tensor : weights.tensors()) {
    if (!known.contains(tensor.name))
      throw InputError(fmt::format("{}: tensor {}: LlamaForCausalLM has no place for it", file, tensor.name));
  }
}

}  // namespace

std::string not_a_llama(const ModelConfig& model, const DepthPlan& plan) {
  if (model.architecture != "decoder")
    return fmt::format("model.architecture: found {}; LlamaForCausalLM is a decoder", model.architecture);
  if (model.attention.qk_norm) return "model.attention.qk_norm: LlamaForCausalLM has no norms of queries and keys";
  if (model.norm != "pre") return fmt::format("model.norm: found {}; LlamaForCausalLM has pre", model.norm);
  if (model.feed_forward.kind != "swiglu")
    return fmt::format("model.feed_forward.kind: found {}; LlamaForCausalLM has swiglu", model.feed_forward.kind);
  if (model.depth_attention) return "model.depth_attention: LlamaForCausalLM has none";
  if (model.loop.injection == "concat") return "model.loop.injection: found concat; LlamaForCausalLM has no loop";
  if (!plan.is_plain() || plan.num_calls() != model.blocks)
    return fmt::format("depth plan {}: LlamaForCausalLM calls every block once, in order", plan.print());
  return "";
}

HfExported export_llama(const SafetensorsFile& weights, const ModelConfig& model, std::int64_t sequence_length, const HfExport& options,
                        const std::filesystem::path& out) {
  const std::vector<LlamaPart> parts = llama_parts(model);
  refuse_other_models(weights, model, parts);
  const nlohmann::ordered_json base = base_config(options.companions);
  return write_hf_folder(weights, parts, llama_config_json(model, export_positions(sequence_length, base), base),
                         weight_type(options.dtype, base), options, {}, out);
}

}  // namespace meristem
