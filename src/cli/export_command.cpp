#include <algorithm>
#include <limits>
#include <memory>

#include <fmt/format.h>

#include "checkpoint/tensors.h"
#include "cli/commands.h"
#include "config/load.h"
#include "core/errors.h"
#include "core/file.h"
#include "data/loader.h"
#include "interop/hf_folder.h"
#include "interop/stock.h"
#include "models/registry.h"

namespace meristem::cli {
namespace {

struct ExportArguments {
  std::string checkpoint, out, dtype, tokenizer;
  std::uint64_t shard_bytes = HfExport{}.shard_bytes;
  bool code = false;
};

bool same_file(const std::filesystem::path& one, const std::filesystem::path& other) {
  const MappedFile a(one), b(other);
  return std::ranges::equal(a.bytes(), b.bytes());
}

// Where tokenizer and chat template are: what the user says, else in the checkpoint; else of the tokenizer that the run was trained with,
// whose copy is in its run folder.
std::filesystem::path companions_of(const ExportArguments& arguments, const std::filesystem::path& checkpoint, const RunConfig& config) {
  std::error_code ignored;
  if (!arguments.tokenizer.empty()) {
    if (!std::filesystem::is_directory(arguments.tokenizer, ignored))
      throw InputError(fmt::format("--tokenizer: {} is not a folder", arguments.tokenizer));
    return arguments.tokenizer;
  }
  const auto has = [&](const std::filesystem::path& folder) {
    return !folder.empty() && std::filesystem::exists(folder / "tokenizer.json", ignored);
  };
  if (has(checkpoint)) return checkpoint;
  const std::filesystem::path above = std::filesystem::absolute(checkpoint).parent_path(),
                              run = above.filename() == "checkpoints" ? above.parent_path() : std::filesystem::path(),
                              named = config.data.tokenizer.empty() ? "" : std::filesystem::absolute(config.data.tokenizer).parent_path();
  if (has(run)) {
    if (has(named) && !same_file(named / "tokenizer.json", run / "tokenizer.json"))
      fmt::print(stderr, "meristem: note: {} is not what the run was trained with; the copy in {} goes along\n",
                 (named / "tokenizer.json").string(), run.string());
    return run;
  }
  if (has(named)) return named;
  return std::filesystem::exists(checkpoint / "config.json", ignored) ? checkpoint : std::filesystem::path();
}

// The mixers of a block, as the model says that the config describes.
std::vector<ModelPart> mixers_of_block(const RunConfig& config) { return model_without_storage(config)->parts(0); }

ExitCode export_checkpoint(const ExportArguments& arguments) {
  const auto [folder, checkpoint] = open_named_checkpoint(arguments.checkpoint);
  require_finite(tensors_of(checkpoint.model), folder.string());
  RunConfig config = parse_config(checkpoint.state.config_yaml, (folder / "state.json").string());
  config.model.blocks = checkpoint.state.blocks;
  const DepthPlan plan = DepthPlan::parse(checkpoint.state.depth_plan);
  const HfExport options{companions_of(arguments, folder, config), arguments.dtype, arguments.shard_bytes};
  std::error_code ignored;
  if (const auto tokenizer = options.companions / "tokenizer.json";
      !options.companions.empty() && std::filesystem::exists(tokenizer, ignored))
    require_fitting_ids(tokenizer, config.model.vocab_size);
  const nlohmann::ordered_json base = base_config(options.companions);
  std::string reason;
  const Family* family =
      stock_family(config.model, plan, base.contains("model_type") ? base.at("model_type").get<std::string>() : "", reason);
  const bool stock = family != nullptr && !arguments.code;
  const std::int64_t length = config.data.sequence_length;
  const HfExported done = stock ? export_stock(checkpoint.model, *family, config.model, length, options, arguments.out)
                                : export_with_code(checkpoint.model, config.model, mixers_of_block(config), config.model.plan_text(plan),
                                                   length, options, arguments.out);
  if (done.overflows > 0)
    fmt::print(stderr, "meristem: WARNING: {} weights are too large for {} and became infinite\n", done.overflows, done.dtype);
  if (done.companions.empty()) fmt::print(stderr, "meristem: note: no tokenizer was found to carry along; --tokenizer FOLDER names one\n");
  const std::string form = stock ? fmt::format("{} of {} layers", family->class_name, config.model.blocks)
                                 : fmt::format("MeristemForCausalLM of {} blocks and {} calls", config.model.blocks, plan.num_calls());
  fmt::print("{}: {}, {}, {} weight file{}, {} files carried along\n", arguments.out, form, done.dtype, done.files,
             done.files == 1 ? "" : "s", done.companions.size());
  if (!stock)
    fmt::print("its code, modeling_meristem.py, goes with it: load it with trust_remote_code=True{}\n",
               reason.empty() ? "" : " (" + reason + ")");
  return ExitCode::kOk;
}

}  // namespace

void add_export(CLI::App& app, Action& run) {
  auto arguments = std::make_shared<ExportArguments>();
  CLI::App* command = app.add_subcommand(
      "export", "A Hugging Face folder: LlamaForCausalLM of a plain decoder, of any other model a folder that brings its own code");
  command->add_option("checkpoint", arguments->checkpoint, "Checkpoint or run folder")->required();
  command->add_option("--out", arguments->out, "New folder")->required();
  command->add_option("--dtype", arguments->dtype,
                      "fp32 | bf16 | fp16; default: that of the folder the model was imported from, else fp32");
  command->add_option("--tokenizer", arguments->tokenizer,
                      "Folder whose tokenizer, chat template and token ids go along (default: those that the checkpoint was made with)");
  add_whole_number(*command, "--shard-bytes", arguments->shard_bytes, "Largest weight file", 1, std::numeric_limits<std::uint64_t>::max());
  command->add_flag("--with-code", arguments->code,
                    "Bring the code for a plain decoder too, so that its depth plan can be chosen when it is loaded");
  command->callback([arguments, &run] { run = [arguments] { return export_checkpoint(*arguments); }; });
}

}  // namespace meristem::cli
