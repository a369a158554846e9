// Scores multiple-choice items given as token ids, on one rank or shared out over several; scripts/meristem turns tasks and text into them,
// and scores into accuracies.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <span>

#include <unistd.h>

#include <fmt/format.h>
#include <torch/torch.h>

#include "cli/commands.h"
#include "core/clock.h"
#include "core/file.h"
#include "core/json.h"
#include "core/text.h"
#include "eval/score.h"
#include "metrics/progress.h"
#include "ops/paths.h"

namespace meristem::cli {

std::vector<std::int32_t> token_ids(const JsonCursor& list) {
  std::vector<std::int32_t> ids;
  for (const JsonCursor& id : list.items())
    ids.push_back(static_cast<std::int32_t>(id.integer(0, std::numeric_limits<std::int32_t>::max())));
  return ids;
}

void each_json_line(const std::string& text, const std::string& path, const std::function<void(const JsonCursor&)>& action) {
  std::size_t line = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    const std::string origin = fmt::format("{}:{}", path, ++line);
    const nlohmann::json value = parse_json_strict(std::string_view(text).substr(begin, end - begin), origin);
    action(JsonCursor(value, origin));
    begin = end + 1;
  }
}

ChoiceItem choice_item(const JsonCursor& item) {
  ChoiceItem out{token_ids(item.at("context")), {}};
  for (const JsonCursor& choice : item.at("choices").items()) out.choices.push_back(token_ids(choice));
  return out;
}

std::function<void(std::size_t, std::size_t)> show_progress(bool lines) {
  if (!lines && ::isatty(STDERR_FILENO) == 0) return {};
  ProgressOptions options;
  options.mode = ProgressOptions::Mode::kBar;
  auto bar = lines ? nullptr : std::make_shared<Progress>(options);
  return [bar, begin = seconds_now(), said = 0.0](std::size_t done, std::size_t total) mutable {
    const double now = seconds_now();
    if (!bar) {
      if (done < total && now - said < 0.2) return;
      said = now;
      fmt::print(stderr, "progress {} {}\n", done, total);
      return;
    }
    ProgressState state;
    state.step = static_cast<std::int64_t>(done);
    state.total = static_cast<std::int64_t>(total);
    state.eta = (now - begin) * static_cast<double>(total - done) / static_cast<double>(std::max<std::size_t>(1, done));
    bar->update(state);
    if (done == total) bar->finish();
  };
}

namespace {

// Lines {"context": [ids], "choices": [[ids], …]}.
std::vector<ChoiceItem> parse_items(const std::string& text, const std::string& path) {
  std::vector<ChoiceItem> items;
  each_json_line(text, path, [&](const JsonCursor& item) {
    item.allow_only({"context", "choices"});
    items.push_back(choice_item(item));
  });
  if (items.empty()) throw InputError(fmt::format("{}: has no item", path));
  return items;
}

// Scores of all batches on all ranks, each of which has scored some. The others' are zeros, so no sum is rounded.
void join(Ranks& ranks, at::Device device, std::vector<std::vector<double>>& scores) {
  std::vector<double> flat;
  for (const auto& item : scores) flat.insert(flat.end(), item.begin(), item.end());
  const at::Tensor sums = torch::tensor(flat, torch::kDouble).to(device);
  ranks.sum(sums).wait();
  const at::Tensor all = sums.cpu();
  const double* next = all.data_ptr<double>();
  for (auto& item : scores) {
    for (double& score : item) score = *next++;
  }
}

void require_finite(const std::vector<std::vector<double>>& scores, const std::string& file) {
  for (std::size_t i = 0; i < scores.size(); ++i) {
    for (std::size_t c = 0; c < scores[i].size(); ++c) {
      if (std::isfinite(scores[i][c])) continue;
      throw NonFiniteError(fmt::format("{}:{}: the log-likelihood of choice {} is not finite: {}", file, i + 1, c, scores[i][c]));
    }
  }
}

struct EvalArguments {
  std::string checkpoint, items;
  PlanChoice plan;
  RunOptions run;
  std::int64_t batch_tokens = 0;
  bool progress_lines = false;
};

ExitCode evaluate(Ranks& ranks, at::Device device, const EvalArguments& arguments) {
  const std::string& file = arguments.items;
  const double begin = seconds_now();
  const std::string text = read_file(file, 4ull << 30);
  const std::vector<ChoiceItem> items = parse_items(text, file);
  const auto open = [&](const std::filesystem::path& path) {
    // Several ranks need the same one, of which they convince themselves before anything that one of them alone might refuse.
    if (!ranks.several()) return open_checkpoint_model(path, device, longest_positions(items), arguments.run.precision);
    const std::filesystem::path folder = checkpoint_folder(path);
    ranks.agree("eval", {{"the checkpoint", xxh3_hex(MappedFile(folder / "manifest.json").bytes())},
                         {"the items", xxh3_hex(std::as_bytes(std::span(text)))},
                         {"--plan", in_quotes(arguments.plan.text)},
                         {"--batch-tokens", std::to_string(arguments.batch_tokens)},
                         {"--precision", in_quotes(arguments.run.precision)},
                         {"--repeats", std::to_string(arguments.plan.repeats.value_or(0))}});
    return open_checkpoint_model(folder, device, longest_positions(items), arguments.run.precision);
  };
  const double read = seconds_now();
  CheckpointModel opened = open(arguments.checkpoint);
  const double opening = seconds_now() - read;
  const DepthPlan plan = plan_or(arguments.plan, opened.plan, opened.config.model.blocks);
  if (ranks.first() && longest_positions(items) > opened.config.data.sequence_length) {
    fmt::print(stderr, "meristem: note: trained on {} positions; the longest item has {}\n", opened.config.data.sequence_length,
               longest_positions(items));
  }
  const Share own{static_cast<std::size_t>(ranks.rank()), static_cast<std::size_t>(ranks.size())};
  auto scores = score_choices(*opened.model, plan, opened.config.model.vocab_size, items, device, own,
                              ranks.first() ? show_progress(arguments.progress_lines) : Scored(), arguments.batch_tokens);
  join(ranks, device, scores);
  require_finite(scores, file);
  arguments.run.say_seconds(begin + opening);
  if (!ranks.first()) return ExitCode::kOk;
  for (const auto& item : scores) {
    std::string line;
    for (const double score : item) line += (line.empty() ? "" : ", ") + number_text(score);
    fmt::print("{{\"log_likelihoods\": [{}]}}\n", line);
  }
  return std::fflush(stdout) == 0 ? ExitCode::kOk : ExitCode::kInternal;
}

}  // namespace

void add_eval(CLI::App& app, Action& run) {
  auto arguments = std::make_shared<EvalArguments>();
  CLI::App* command =
      app.add_subcommand("eval", "Log-likelihoods of multiple-choice items of token ids (scripts/meristem eval takes tasks and text)");
  command->add_option("checkpoint", arguments->checkpoint, "Checkpoint or run folder")->required();
  command->add_option("--item-ids", arguments->items, "JSON lines {\"context\": [ids], \"choices\": [[ids], …]}")->required();
  add_plan_options(*command, arguments->plan);
  add_run_options(*command, arguments->run);
  add_whole_number(*command, "--batch-tokens", arguments->batch_tokens,
                   fmt::format("Tokens of a forward pass, about: fewer need less memory (0: {} on a CPU, {} on a GPU)",
                               scoring_tokens(at::kCPU), scoring_tokens(at::kCUDA)),
                   0, std::numeric_limits<std::int32_t>::max());
  command
      ->add_flag("--progress-lines", arguments->progress_lines, "Say on stderr how far it is, for programs: lines \"progress DONE TOTAL\"")
      ->group("");
  command->callback([arguments, &run] {
    run = [arguments] {
      const RankPlace place = rank_place();
      const at::Device device = pick_device(place.local_rank);
      return as_rank(place, device, {}, [&](const std::shared_ptr<Ranks>& ranks) { return evaluate(*ranks, device, *arguments); });
    };
  });
}

}  // namespace meristem::cli
