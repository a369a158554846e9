#include <memory>

#include <fmt/format.h>

#include "checkpoint/tensors.h"
#include "cli/commands.h"
#include "config/load.h"
#include "core/errors.h"
#include "core/text.h"
#include "data/loader.h"
#include "data/sequence_sampler.h"
#include "interop/hf_folder.h"
#include "interop/stock.h"
#include "step/live_model.h"

namespace meristem::cli {
namespace {

struct ImportArguments {
  std::string folder, out, rope = "config";
};

std::optional<bool> interleaved_of(const std::string& rope) {
  if (rope == "config") return std::nullopt;
  if (rope != "halves" && rope != "interleaved")
    throw InputError(fmt::format("--rope: found {}; allowed: config, halves, interleaved", rope));
  return rope == "interleaved";
}

// A config that stands for the model; the data are for the run that goes on from it to name.
RunConfig imported_config(const StockConfig& stock, const std::filesystem::path& out, bool tokenizer) {
  RunConfig config;
  config.run.name = "imported";
  config.model = stock.model;
  config.data.sequence_length = stock.max_positions;
  config.batch.tokens = stock.max_positions;
  config.data.sources = {{"unset", {"unset", 0}}};
  if (tokenizer) config.data.tokenizer = (out / "tokenizer.json").string();
  return parse_config(dump_config(config), "imported config");  // resolved, and held against the limits of configs
}

ExitCode import_folder(const ImportArguments& arguments) {
  const std::filesystem::path folder = arguments.folder, out = arguments.out;
  std::error_code ignored;
  if (!std::filesystem::is_directory(folder, ignored)) throw InputError(fmt::format("{}: is not a folder", folder.string()));
  if (std::filesystem::exists(out, ignored)) throw InputError(fmt::format("{}: exists; choose another --out", out.string()));
  ImportedModel imported = import_stock(folder, interleaved_of(arguments.rope));
  const bool tokenizer = std::filesystem::exists(folder / "tokenizer.json", ignored);
  if (tokenizer) require_fitting_ids(folder / "tokenizer.json", imported.config.model.vocab_size);
  const RunConfig config = imported_config(imported.config, out, tokenizer);

  const Timeline timeline(config);
  LiveModel live(config, timeline, builtin_registry(), at::kCPU, config.model.blocks, /*fresh=*/false);
  {
    NamedTensors weights;
    for (std::size_t i = 0; i < imported.weights.views.size(); ++i) {
      const TensorView& view = imported.weights.views[i];
      weights.add(view.name, at::from_blob(imported.weights.bytes[i].data(), view.shape, at::kFloat));
    }
    require_finite(weights, folder.string());
    live.parameters().load_masters(weights);
  }
  imported.weights = {};
  TrainState state;
  state.seed = config.run.seed;
  state.depth_plan = config.model.depth_plan.text;
  state.blocks = config.model.blocks;
  state.loader = LoaderPosition{}.to_json();
  state.config_yaml = dump_config(config);
  state.config_hash = config_hash(config);
  const NamedTensors masters = live.parameters().masters(), moments = live.optimizer().state();
  save_checkpoint(out, {state, views_of(masters), views_of(moments)});
  const auto companions = copy_companions(folder, out, /*config=*/true);
  std::int64_t parameters = 0;
  for (const auto& [name, tensor] : masters) parameters += tensor.numel();
  fmt::print("{}: {} of {} blocks, {} parameters, {} files carried along\n", out.string(), imported.config.family->class_name, state.blocks,
             grouped_digits(parameters), companions.size());
  fmt::print("train it on with a config of the same model: meristem train RUN.yaml --branch {}\n", out.string());
  return ExitCode::kOk;
}

}  // namespace

void add_import(CLI::App& app, Action& run) {
  auto arguments = std::make_shared<ImportArguments>();
  CLI::App* command = app.add_subcommand(
      "import", "A Hugging Face folder of a Llama, Mistral, Qwen2, Qwen3, SmolLM3, Phi-3, Granite, OLMo 2 or Gemma 2 to a checkpoint");
  command->add_option("folder", arguments->folder, "Folder with config.json and safetensors")->required();
  command->add_option("--out", arguments->out, "New checkpoint folder")->required();
  command
      ->add_option("--rope", arguments->rope,
                   "config | halves | interleaved: the order of query and key rows, where config.json does not tell")
      ->capture_default_str();
  command->callback([arguments, &run] { run = [arguments] { return import_folder(*arguments); }; });
}

}  // namespace meristem::cli
