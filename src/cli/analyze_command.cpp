// Measures what happens along the depth of a model on texts and items given as token ids, and prints a number or table for each text;
// scripts/meristem analyze turns text into ids, and these numbers into means with intervals.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <set>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/torch.h>

#include "analysis/edits.h"
#include "analysis/effects.h"
#include "analysis/lens.h"
#include "analysis/streams.h"
#include "cli/commands.h"
#include "core/file.h"
#include "core/json.h"
#include "core/text.h"
#include "ops/paths.h"

namespace meristem::cli {
namespace {

constexpr std::uint64_t kLargestFile = 1ull << 30;
const std::vector<std::string> kMeasures{"future", "local",   "norms",   "lens",    "tuned_lens",     "skip",
                                         "swap",   "reverse", "weights", "experts", "depth_attention"};
const std::vector<std::pair<std::string, Edit>> kEdits{{"skip", Edit::kSkip}, {"swap", Edit::kSwap}, {"reverse", Edit::kReverse}};

struct AnalyzeArguments {
  std::string checkpoint, texts, items, lens_texts, measures;
  PlanChoice plan;
  std::int64_t effect_texts = 10, seed = 42;
  bool check = false, progress_lines = false;
};

struct AnalyzeInput {
  std::vector<TokenIds> texts, lens_texts;
  std::vector<ItemTask> tasks;
  std::set<std::string> measures;
  std::int64_t longest() const {
    std::size_t most = 0;
    for (const auto* of : {&texts, &lens_texts}) {
      for (const TokenIds& ids : *of) most = std::max(most, ids.size());
    }
    std::int64_t longest = static_cast<std::int64_t>(most);
    for (const ItemTask& task : tasks) longest = std::max(longest, longest_positions(task.items));
    return longest;
  }
};

// Lines {"ids": [ids]}.
std::vector<TokenIds> read_texts(const std::string& path) {
  std::vector<TokenIds> texts;
  each_json_line(read_file(path, kLargestFile), path, [&](const JsonCursor& line) {
    line.allow_only({"ids"});
    texts.push_back(token_ids(line.at("ids")));
  });
  if (texts.empty()) throw InputError(fmt::format("{}: has no text", path));
  return texts;
}

// Lines {"task": name, "context": [ids], "choices": [[ids], …], "gold": index}.
std::vector<ItemTask> read_tasks(const std::string& path) {
  std::vector<ItemTask> tasks;
  each_json_line(read_file(path, kLargestFile), path, [&](const JsonCursor& line) {
    line.allow_only({"task", "context", "choices", "gold"});
    const std::string name = line.at("task").text();
    const auto same = [&](const ItemTask& task) { return task.name == name; };
    auto task = std::find_if(tasks.begin(), tasks.end(), same);
    if (task == tasks.end()) task = tasks.insert(task, ItemTask{name, {}, {}});
    task->items.push_back(choice_item(line));
    task->gold.push_back(
        static_cast<std::size_t>(line.at("gold").integer(0, static_cast<std::int64_t>(task->items.back().choices.size()) - 1)));
  });
  if (tasks.empty()) throw InputError(fmt::format("{}: has no item", path));
  return tasks;
}

std::set<std::string> measures_of(const std::string& words) {
  if (words.empty()) return {kMeasures.begin(), kMeasures.end()};
  std::set<std::string> out;
  for (std::size_t begin = 0; begin <= words.size();) {
    const std::size_t end = std::min(words.find(',', begin), words.size());
    const std::string word = words.substr(begin, end - begin);
    if (std::find(kMeasures.begin(), kMeasures.end(), word) == kMeasures.end()) {
      throw InputError(fmt::format("--measure: found {}; allowed: {}", in_quotes(word), fmt::join(kMeasures, ", ")));
    }
    out.insert(word);
    begin = end + 1;
  }
  return out;
}

// Nested lists; null where a number is undefined.
nlohmann::ordered_json to_json(const at::Tensor& tensor) {
  if (tensor.dim() == 0) {
    const double value = tensor.item<double>();
    return std::isfinite(value) ? nlohmann::ordered_json(value) : nlohmann::ordered_json(nullptr);
  }
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  if (tensor.dim() > 1) {
    for (std::int64_t i = 0; i < tensor.size(0); ++i) list.push_back(to_json(tensor[i]));
    return list;
  }
  const at::Tensor row = tensor.contiguous();
  const double* values = row.data_ptr<double>();
  for (std::int64_t i = 0; i < row.size(0); ++i) {
    list.push_back(std::isfinite(values[i]) ? nlohmann::ordered_json(values[i]) : nlohmann::ordered_json(nullptr));
  }
  return list;
}

nlohmann::ordered_json to_json(const Measured& measured) {
  nlohmann::ordered_json out{{"values", to_json(measured.values)}};
  for (const auto& [name, values] : measured.variants) out["variants"][name] = to_json(values);
  return out;
}

// All that is measured of one model, and why the rest is not.
class Analysis {
 public:
  Analysis(const CheckpointModel& opened, const Subject& subject, const AnalyzeInput& input, const AnalyzeArguments& arguments)
      : subject_(subject),
        input_(input),
        seed_(static_cast<std::uint64_t>(arguments.seed)),
        injects_(opened.config.model.loop.injection != Injection::kNone),
        work_(show_progress(arguments.progress_lines)) {
    const auto some = std::min<std::size_t>(input.texts.size(), static_cast<std::size_t>(arguments.effect_texts));
    effect_texts_.assign(input.texts.begin(), input.texts.begin() + static_cast<std::ptrdiff_t>(some));
    for (std::size_t i = 0; i < some; ++i) {
      boundaries_.push_back(boundaries_of(static_cast<std::int64_t>(effect_texts_[i].size()), i, seed_));
    }
    leave_out();
    expect();
  }

  void run() {
    if (reads_streams()) read_streams();
    for (const auto& [name, effect] : {std::pair{"future", Effect::kFuture}, std::pair{"local", Effect::kLocal}}) {
      if (!wanted(name)) continue;
      const Effects effects = measure_effects(subject_, effect, effect_texts_, boundaries_, work_);
      measured_[std::string(name) + "_effect"] = to_json(effects.changes);
      if (effect == Effect::kFuture) measured_["output_effect"] = to_json(effects.outputs);
    }
    for (const auto& [name, edit] : kEdits) {
      if (wanted(name)) measured_[name] = to_json(measure_edit(subject_, edit, input_.texts, input_.tasks, work_));
    }
    if (wanted("weights")) measured_["weight_products"] = to_json(weight_products(subject_.model));
  }

  nlohmann::ordered_json result() const {
    nlohmann::ordered_json out{{"measured", measured_}, {"left_out", left_out_}, {"boundaries", boundaries_}};
    for (const auto& [name, edit] : kEdits) out["sizes"][name] = edit_sizes(edit, subject_.calls());
    return out;
  }

 private:
  bool wanted(const std::string& name) const { return input_.measures.count(name) != 0 && left_out_.count(name) == 0; }
  bool reads_streams() const {
    for (const char* name : {"norms", "lens", "tuned_lens", "experts", "depth_attention"}) {
      if (wanted(name)) return true;
    }
    return false;
  }

  void leave_out() {
    const auto without = [&](const std::string& name, const std::string& why) {
      if (input_.measures.count(name) != 0) left_out_[name] = why;
    };
    bool has_experts = false;
    for (std::int64_t r = 0; r < subject_.calls(); ++r) {
      const auto mixer = subject_.model.call_cost(subject_.block(r), {});
      has_experts = has_experts || mixer.expert_parameters > 0;
    }
    if (!has_experts) without("experts", "the model has no experts");
    if (subject_.calls() == 1) {
      for (const char* name : {"future", "local", "skip", "swap", "reverse"}) without(name, "the plan has one call");
    }
    for (const auto& [name, edit] : kEdits) {
      if (edit_sizes(edit, subject_.calls()).empty()) without(name, "the plan has too few calls");
      if (injects_) without(name, "the model injects into its loop, and an edited plan does not say where");
    }
    if (input_.lens_texts.empty()) without("tuned_lens", "there is no other text to train it on (--lens-text)");
  }

  void expect() {
    const auto texts = static_cast<std::int64_t>(input_.texts.size());
    if (reads_streams()) work_.expect(texts);
    for (const char* name : {"future", "local"}) {
      if (wanted(name)) work_.expect(effect_passes(subject_, boundaries_));
    }
    for (const char* name : {"lens", "tuned_lens"}) {
      if (wanted(name)) work_.expect(early_exit_passes(subject_, input_.tasks));
    }
    if (wanted("tuned_lens")) work_.expect(lens_passes(subject_, training_));
    for (const auto& [name, edit] : kEdits) {
      if (wanted(name)) work_.expect(edit_passes(subject_, edit, input_.texts.size(), input_.tasks));
    }
  }

  void read_streams() {
    if (wanted("tuned_lens")) tuned_ = train_lens(subject_, input_.lens_texts, training_, seed_, work_);
    std::vector<Measurements> of_texts;
    for (const TokenIds& ids : input_.texts) {
      of_texts.push_back(read(ids, record(subject_, batch_of(ids, 1, subject_.device))));
      work_.did(1);
    }
    Measurements all = stacked(of_texts);
    for (const auto& [name, lens, prefix] : {std::tuple{"lens", &logit_, ""}, std::tuple{"tuned_lens", &tuned_, "tuned_"}}) {
      if (!wanted(name)) continue;
      Measured& accuracy = all.at(std::string(prefix) + "early_exit_accuracy");
      for (const ItemTask& task : input_.tasks) accuracy.variants[task.name] = measure_early_exit(subject_, *lens, task, injects_, work_);
    }
    for (const auto& [name, measured] : all) measured_[name] = to_json(measured);
    if (wanted("depth_attention") && all.count("depth_attention_weights") == 0)
      left_out_["depth_attention"] = "the model has no depth attention";
  }

  Measurements read(const TokenIds& ids, const Recording& recording) const {
    Measurements out;
    if (wanted("norms")) out.merge(measure_norms(subject_, recording));
    if (wanted("experts")) out.merge(measure_experts(subject_, recording));
    if (wanted("depth_attention")) out.merge(measure_depth_attention(subject_, recording));
    if (wanted("lens")) out.merge(measure_lens(subject_, logit_, ids, recording));
    if (wanted("tuned_lens")) out.merge(measure_lens(subject_, tuned_, ids, recording, "tuned_"));
    return out;
  }

  const Subject& subject_;
  const AnalyzeInput& input_;
  std::uint64_t seed_;
  bool injects_;
  Work work_;
  LensTraining training_;
  std::vector<TokenIds> effect_texts_;
  std::vector<std::vector<std::int64_t>> boundaries_;
  Lens logit_, tuned_;
  nlohmann::ordered_json measured_ = nlohmann::ordered_json::object();
  std::map<std::string, std::string> left_out_;
};

// Of the growth or of the plan's loop; 0: there is none.
std::int64_t period_of(const RunConfig& config, const DepthPlan& plan) {
  if (config.growth && config.growth->add_blocks) return *config.growth->add_blocks;
  return plan.loop() && plan.loop()->repeats > 1 ? plan.loop()->length : 0;
}

nlohmann::ordered_json description(const RunConfig& config, const DepthPlan& plan, const DepthPlan& trained, const AnalyzeInput& input) {
  const std::int64_t period = period_of(config, plan);
  nlohmann::ordered_json out{{"format", 1},
                             {"plan", plan.print_grouped()},
                             {"trained_plan", trained.print_grouped()},
                             {"blocks", config.model.blocks},
                             {"calls", plan.calls()},
                             {"period", period > 0 ? nlohmann::ordered_json(period) : nlohmann::ordered_json(nullptr)}};
  if (const auto& depth = config.model.depth_attention) out["depth_attention"] = word_of(depth->kind);
  for (const TokenIds& ids : input.texts) out["tokens"].push_back(ids.size());
  return out;
}

// Refuses what is wrong before any work.
AnalyzeInput read_input(const AnalyzeArguments& arguments) {
  AnalyzeInput input;
  input.measures = measures_of(arguments.measures);
  input.texts = read_texts(arguments.texts);
  if (!arguments.lens_texts.empty()) input.lens_texts = read_texts(arguments.lens_texts);
  if (!arguments.items.empty()) input.tasks = read_tasks(arguments.items);
  return input;
}

void check_input(const AnalyzeInput& input, const AnalyzeArguments& arguments, std::int64_t vocab_size) {
  const bool cuts = input.measures.count("future") + input.measures.count("local") > 0;
  const auto some = std::min<std::size_t>(input.texts.size(), static_cast<std::size_t>(arguments.effect_texts));
  check_texts({input.texts.begin(), input.texts.begin() + static_cast<std::ptrdiff_t>(some)}, vocab_size, cuts ? kLeastForBoundary : 2);
  check_texts(input.texts, vocab_size, 2);
  check_texts(input.lens_texts, vocab_size, 1);
}

ExitCode analyze(const AnalyzeArguments& arguments) {
  const AnalyzeInput input = read_input(arguments);
  if (arguments.check) {
    const auto [folder, checkpoint] = open_named_checkpoint(arguments.checkpoint);
    const RunConfig config = config_of(checkpoint, folder);
    plan_or(arguments.plan, DepthPlan::parse(checkpoint.state.depth_plan), checkpoint.state.blocks);
    check_input(input, arguments, config.model.vocab_size);
    return ExitCode::kOk;
  }
  const at::Device device = pick_device(0);
  const std::filesystem::path folder = checkpoint_folder(arguments.checkpoint);
  CheckpointModel opened = open_checkpoint_model(folder, device, input.longest(), "fp32");
  const Subject subject{*opened.model, plan_or(arguments.plan, opened.plan, opened.config.model.blocks), opened.config.model.vocab_size,
                        device};
  check_input(input, arguments, subject.vocab_size);
  const torch::NoGradGuard no_grad;
  Analysis analysis(opened, subject, input, arguments);
  analysis.run();
  nlohmann::ordered_json out = description(opened.config, subject.plan, opened.plan, input);
  std::int64_t parameters = 0;
  for (const ParameterInfo& info : opened.model->parameter_infos()) parameters += info.tensor.numel();
  out["parameters"] = parameters;
  out["checkpoint"] = folder.string();
  out.update(analysis.result());
  fmt::print("{}\n", out.dump());
  return ExitCode::kOk;
}

}  // namespace

void add_analyze(CLI::App& app, Action& run) {
  auto arguments = std::make_shared<AnalyzeArguments>();
  CLI::App* command =
      app.add_subcommand("analyze", "What happens along the depth, on texts of token ids (scripts/meristem analyze takes text and tasks)");
  command->add_option("checkpoint", arguments->checkpoint, "Checkpoint or run folder")->required();
  command->add_option("--text-ids", arguments->texts, "JSON lines {\"ids\": [ids]}")->required();
  command->add_option("--item-ids", arguments->items,
                      "JSON lines {\"task\": name, \"context\": [ids], \"choices\": [[ids], …], \"gold\": index} (default: no task)");
  command->add_option("--lens-ids", arguments->lens_texts,
                      "Texts that the tuned lens is trained on, as --text-ids (default: none, and no tuned lens)");
  command->add_option("--measure", arguments->measures,
                      fmt::format("Which of {}, separated by commas (default: all that apply)", fmt::join(kMeasures, ", ")));
  add_whole_number(*command, "--effect-texts", arguments->effect_texts, "Texts that calls are cut out of: the first so many", 1, 1 << 20);
  add_whole_number(*command, "--seed", arguments->seed, "Seed of boundaries and of the tuned lens", 0, 1ll << 40);
  add_plan_options(*command, arguments->plan);
  command->add_flag("--check", arguments->check, "Refuse what would be refused, and measure nothing")->group("");
  command
      ->add_flag("--progress-lines", arguments->progress_lines, "Say on stderr how far it is, for programs: lines \"progress DONE TOTAL\"")
      ->group("");
  command->callback([arguments, &run] { run = [arguments] { return analyze(*arguments); }; });
}

}  // namespace meristem::cli
