#include <memory>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "checkpoint/store.h"
#include "checkpoint/tensors.h"
#include "cli/commands.h"
#include "core/errors.h"
#include "core/text.h"
#include "data/shard.h"
#include "run/start.h"

namespace meristem::cli {
namespace {

namespace fs = std::filesystem;

void print_tensors(const SafetensorsFile& file) {
  std::int64_t elements = 0;
  for (const TensorView& tensor : file.tensors()) {
    fmt::print("  {:<52} {:>4}  [{}]\n", tensor.name, dtype_name(tensor.dtype), fmt::join(tensor.shape, ", "));
    elements += tensor.elements();
  }
  fmt::print("  {} tensors, {} elements, {}\n", file.tensors().size(), grouped_digits(elements),
             bytes_text(static_cast<double>(file.file_bytes().size())));
}

void inspect_checkpoint(const fs::path& path) {
  const auto [folder, checkpoint] = open_named_checkpoint(path);
  const TrainState& state = checkpoint.state;
  fmt::print("{}: whole, format {}\n", folder.string(), state.format_version);
  fmt::print("  step {}, {} tokens, {} blocks, plan {}\n", state.step, grouped_digits(state.tokens), state.blocks, state.depth_plan);
  for (const GrowthEvent& event : state.growth_history) {
    fmt::print("  grew after step {}: {} -> {} blocks ({}), copies of {}\n", event.step, event.from_blocks, event.to_blocks, event.op,
               fmt::join(event.source_of, " "));
  }
  fmt::print("  config {}\n", state.config_hash);
  for (const auto& [key, value] : state.environment) fmt::print("  {} {}\n", key, value);
  print_tensors(checkpoint.model);
  require_finite(tensors_of(checkpoint.model), folder.string());
}

void inspect_shard(const fs::path& path) {
  const TokenSource source = TokenSource::open(path);
  fmt::print("{}: {} documents, {} tokens\n", path.string(), grouped_digits(source.num_documents()), grouped_digits(source.num_tokens()));
}

void inspect(const fs::path& path) {
  std::error_code ignored;
  if (path.extension() == ".safetensors") {
    fmt::print("{}:\n", path.string());
    const SafetensorsFile file = SafetensorsFile::open(path);
    print_tensors(file);
    require_finite(tensors_of(file), path.string());
  } else if (fs::is_directory(path, ignored)) {
    inspect_checkpoint(path);
  } else {
    inspect_shard(path);
  }
}

}  // namespace

void add_inspect(CLI::App& app, Action& run) {
  auto path = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand("inspect", "Say what a checkpoint, run folder, safetensors file or shard holds; verifies it");
  command->add_option("path", *path, "Checkpoint or run folder, FILE.safetensors, or the prefix of a shard")->required();
  command->callback([path, &run] {
    run = [path] {
      inspect(*path);
      return ExitCode::kOk;
    };
  });
}

}  // namespace meristem::cli
