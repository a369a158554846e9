#include "config/initial_model.h"

#include <fmt/format.h>

#include "config/key_path.h"
#include "config/load.h"
#include "core/errors.h"
#include "core/text.h"

namespace meristem {
namespace {

bool has(const YamlNode& map, const char* key) {
  const YamlNode* node = map.find(key);
  return node != nullptr && node->kind != YamlNode::Kind::kNull;
}

// What the checkpoint says of depth, as far as it holds for this run.
void keep_depth_of_this_run(ModelConfig& model, const YamlNode& root, const YamlNode& written) {
  const YamlNode* source_of = root.find("initial")->find("source_of");
  const std::size_t copies = source_of != nullptr ? source_of->items.size() : 0;
  if (copies > 0) {
    model.blocks = static_cast<std::int64_t>(copies);
    model.loop = {};
  } else if (has(root, "growth") && !has(written, "blocks")) {
    throw InputError(fmt::format("{}: model.blocks: is missing; a run that grows says its full depth itself", root.find("growth")->origin));
  } else if (!has(root, "growth") && (!has(written, "blocks") || written.find("blocks")->text == std::to_string(model.blocks))) {
    return;
  }
  model.depth_plan.clear();
}

YamlNode tree_of(const ModelConfig& model, const std::string& origin) {
  RunConfig config;
  config.model = model;
  YamlNode tree = *parse_yaml(dump_config(config), origin).find("model");
  set_origin(tree, origin);
  return tree;
}

}  // namespace

void lay_initial_model_under(YamlNode& root, const InitialModel& initial) {
  const YamlNode* section = root.find("initial");
  const YamlNode* checkpoint = section != nullptr ? section->find("checkpoint") : nullptr;
  if (!initial || checkpoint == nullptr || checkpoint->kind != YamlNode::Kind::kScalar || checkpoint->text.empty()) return;
  YamlNode& written = root.member("model");
  if (written.kind == YamlNode::Kind::kNull) written.kind = YamlNode::Kind::kMap;
  std::optional<ModelConfig> model = initial(checkpoint->text);
  if (!model) {
    if (has(written, "vocab_size")) return;
    throw InputError(
        fmt::format("{}: initial.checkpoint: {} is not there, and without it nothing says what the model is; allowed: a checkpoint or a "
                    "run folder, or a whole section model",
                    checkpoint->origin, in_quotes(checkpoint->text)));
  }
  keep_depth_of_this_run(*model, root, written);
  merge_under(written, tree_of(*model, "initial.checkpoint " + checkpoint->text));
}

}  // namespace meristem
