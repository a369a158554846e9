#include <cstdio>
#include <memory>

#include <fmt/format.h>

#include "cli/checkpoint_model.h"
#include "cli/commands.h"
#include "eval/generate.h"
#include "ops/device.h"
#include "train/run.h"

namespace meristem::cli {

void add_generate(CLI::App& app, Action& run) {
  struct Arguments {
    std::string checkpoint, plan;
    std::vector<std::int32_t> prompt;
    GenerateOptions options;
  };
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command = app.add_subcommand("generate", "Go on from a prompt of token ids; prints one id a line (scripts/meristem turns text to ids and back)");
  command->add_option("checkpoint", arguments->checkpoint, "Checkpoint or run folder")->required();
  command->add_option("--prompt-ids", arguments->prompt, "Token ids, separated by commas")->delimiter(',')->required();
  command->add_option("--max-tokens", arguments->options.max_tokens, "Tokens to write");
  command->add_option("--temperature", arguments->options.temperature, "0: the most likely token");
  command->add_option("--top-k", arguments->options.top_k, "Only the k most likely tokens; 0: all");
  command->add_option("--top-p", arguments->options.top_p, "Only the most likely tokens of this mass; 1: all");
  command->add_option("--seed", arguments->options.seed, "Seed of the draws");
  command->add_option("--stop-id", arguments->options.stop_token, "Token id that ends the text; -1: none");
  command->add_option("--plan", arguments->plan, "Depth plan, e.g. \"0-9, (10-13)x2, 14-23\"");
  command->callback([arguments, &run] {
    run = [arguments] {
      const at::Device device = pick_device();
      CheckpointModel opened = open_checkpoint_model(arguments->checkpoint, device);
      const DepthPlan plan = plan_or(arguments->plan, opened.plan, opened.config.model.blocks);
      const auto positions = static_cast<std::int64_t>(arguments->prompt.size()) + arguments->options.max_tokens;
      if (positions > opened.config.data.sequence_length) {
        fmt::print(stderr, "meristem: note: trained on {} positions; beyond them the text gets worse ({} may be written)\n",
                   opened.config.data.sequence_length, positions);
      }
      generate(*opened.model, plan, opened.config.model.vocab_size, arguments->prompt, arguments->options, device, [](std::int32_t id) {
        fmt::print("{}\n", id);
        return std::fflush(stdout) == 0;
      });
      return ExitCode::kOk;
    };
  });
}

}  // namespace meristem::cli
