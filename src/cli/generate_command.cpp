#include <algorithm>
#include <charconv>
#include <cstdio>
#include <iostream>
#include <limits>
#include <memory>
#include <string>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "cli/commands.h"
#include "core/clock.h"
#include "core/errors.h"
#include "core/file.h"
#include "core/json.h"
#include "core/text.h"
#include "eval/generate.h"
#include "ops/paths.h"
#include "run/run.h"

namespace meristem::cli {
namespace {

struct GenerateArguments {
  std::string checkpoint, prompt, prompts;
  PlanChoice plan;
  RunOptions run;
  bool serve = false;
  GenerateOptions options;
};

class Speaker {
 public:
  explicit Speaker(const GenerateArguments& arguments)
      : device_(pick_device()),
        opened_(open_checkpoint_model(arguments.checkpoint, device_, 0, arguments.run.precision)),
        plan_(plan_or(arguments.plan, opened_.plan, opened_.config.model.blocks)) {
    check_options(arguments.options, vocab_size());
  }
  std::int64_t vocab_size() const { return opened_.config.model.vocab_size; }

  // Prints the answer's ids, one a line, as they come.
  void answer(const std::vector<std::int32_t>& prompt, const GenerateOptions& options) {
    warn(prompt.size(), options);
    generate(*opened_.model, plan_, vocab_size(), {prompt}, options, device_, [](std::size_t, std::int32_t id) {
      fmt::print("{}\n", id);
      return std::fflush(stdout) == 0;
    });
  }

  // Prints a line {"prompt": number, "answer": [ids]} when an answer has ended.
  void answer_all(const std::vector<std::vector<std::int32_t>>& prompts, const GenerateOptions& options) {
    std::size_t longest = 0;
    for (const auto& prompt : prompts) longest = std::max(longest, prompt.size());
    warn(longest, options);
    generate(*opened_.model, plan_, vocab_size(), prompts, options, device_, {}, [](std::size_t number, const auto& answer) {
      fmt::print("{{\"prompt\": {}, \"answer\": [{}]}}\n", number, fmt::join(answer, ", "));
      if (std::fflush(stdout) != 0) throw SystemError("standard output: cannot be written");
    });
  }

 private:
  void warn(std::size_t prompt, const GenerateOptions& options) {
    const std::int64_t positions = static_cast<std::int64_t>(prompt) + options.max_tokens;
    if (positions <= opened_.config.data.sequence_length || warned_) return;
    fmt::print(stderr, "meristem: note: trained on {} positions; beyond them the text gets worse ({} may be written)\n",
               opened_.config.data.sequence_length, positions);
    warned_ = true;
  }

  at::Device device_;
  CheckpointModel opened_;
  DepthPlan plan_;
  bool warned_ = false;
};

// place: where the text stands, for the error.
std::vector<std::int32_t> parse_ids(const std::string& line, std::string_view place) {
  std::vector<std::int32_t> ids;
  for (std::size_t begin = 0; begin <= line.size();) {
    const std::size_t end = std::min(line.find(',', begin), line.size());
    std::int32_t id = 0;
    const auto [stop, error] = std::from_chars(line.data() + begin, line.data() + end, id);
    if (error != std::errc() || stop != line.data() + end || id < 0) {
      throw InputError(fmt::format("{}: found {}; allowed: token ids, separated by commas", place, in_quotes(line.substr(0, 80))));
    }
    ids.push_back(id);
    begin = end + 1;
  }
  return ids;
}

// A prompt a line; each answer ends with the line "end". Every answer has its own draws.
void serve(Speaker& speaker, GenerateOptions options) {
  for (std::string line; std::getline(std::cin, line); ++options.seed) {
    speaker.answer(parse_ids(line, "standard input"), options);
    fmt::print("end\n");
    std::fflush(stdout);
  }
}

// Lines {"prompt": [ids]}.
std::vector<std::vector<std::int32_t>> parse_prompts(const std::string& path, std::int64_t vocab_size) {
  std::vector<std::vector<std::int32_t>> prompts;
  each_json_line(read_file(path, 4ull << 30), path, [&](const JsonCursor& line) {
    line.allow_only({"prompt"});
    prompts.push_back(token_ids(line.at("prompt")));
    check_prompt(prompts.back(), fmt::format("{}:{}", path, prompts.size()), vocab_size);
  });
  if (prompts.empty()) throw InputError(fmt::format("{}: has no prompt", path));
  return prompts;
}

ExitCode speak(const GenerateArguments& arguments) {
  if (arguments.serve + !arguments.prompt.empty() + !arguments.prompts.empty() != 1)
    throw InputError("generate: needs one of --prompt-ids, --prompts-ids and --serve");
  if (!arguments.prompts.empty()) {
    Speaker speaker(arguments);
    const double begin = seconds_now();
    speaker.answer_all(parse_prompts(arguments.prompts, speaker.vocab_size()), arguments.options);
    arguments.run.say_seconds(begin);
    return ExitCode::kOk;
  }
  const auto prompt = arguments.serve ? std::vector<std::int32_t>() : parse_ids(arguments.prompt, "generate: --prompt-ids");
  Speaker speaker(arguments);
  if (arguments.serve) {
    serve(speaker, arguments.options);
  } else {
    speaker.answer(prompt, arguments.options);
  }
  return ExitCode::kOk;
}

}  // namespace

void add_generate(CLI::App& app, Action& run) {
  auto arguments = std::make_shared<GenerateArguments>();
  CLI::App* command = app.add_subcommand(
      "generate", "Go on from a prompt of token ids; prints one id a line (scripts/meristem turns text to ids and back)");
  command->add_option("checkpoint", arguments->checkpoint, "Checkpoint or run folder")->required();
  command->add_option("--prompt-ids", arguments->prompt, "Token ids, separated by commas");
  command->add_option("--prompts-ids", arguments->prompts,
                      "JSON lines {\"prompt\": [ids]}; prints a line {\"prompt\": number, \"answer\": [ids]} as each ends");
  command->add_flag("--serve", arguments->serve, "Prompts from standard input, a line of ids each; \"end\" follows each answer");
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
  GenerateOptions& options = arguments->options;
  add_whole_number(*command, "--max-tokens", options.max_tokens, "Tokens to write", 0, kMost);
  command->add_option("--temperature", options.temperature, "0: the most likely token")->capture_default_str();
  add_whole_number(*command, "--top-k", options.top_k, "Only the k most likely tokens; 0: all", 0, kMost);
  command->add_option("--top-p", options.top_p, "Only the most likely tokens of this mass; 1: all")->capture_default_str();
  add_whole_number(*command, "--seed", options.seed, "Seed of the draws", 0, std::numeric_limits<std::uint64_t>::max());
  add_whole_number(*command, "--batch", options.batch, "With --prompts-ids: answers that are written at once", 1, kMostAtOnce);
  const auto take_stops = [&options](const std::string& text) {
    for (const std::int32_t id : parse_ids(text, "--stop-id")) options.stop_tokens.push_back(id);
  };
  command->add_option_function<std::string>("--stop-id", take_stops, "Token ids that end the text, separated by commas (default: none)");
  add_plan_options(*command, arguments->plan);
  add_run_options(*command, arguments->run);
  command->callback([arguments, &run] { run = [arguments] { return speak(*arguments); }; });
}

}  // namespace meristem::cli
