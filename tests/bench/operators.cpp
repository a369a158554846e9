// Our operators against their peers, one JSON line each. Exit code 4 where there is no GPU to measure.
#include <algorithm>
#include <cstdio>
#include <iostream>
#include <map>

#include "bench/commands.h"
#include "bench/harness.h"
#include "ops/paths.h"

namespace meristem::bench {
namespace {

const std::map<std::string, void (*)(Bench&)> kSubjects{{"attention", bench_attention},
                                                        {"attention_packed", bench_attention_packed},
                                                        {"attention_window", bench_attention_window},
                                                        {"attention_joint", bench_attention_joint},
                                                        {"rms_norm", bench_rms_norm},
                                                        {"cross_entropy", bench_cross_entropy},
                                                        {"experts", bench_experts},
                                                        {"adamw", bench_adamw},
                                                        {"depth_attention", bench_depth_attention},
                                                        {"rope", bench_rope},
                                                        {"swiglu", bench_swiglu}};

struct OperatorArguments {
  Settings settings;
  std::string device = "cuda";
  std::vector<std::string> subjects;  // empty: all
};

int compare_operators(OperatorArguments& a) {
  if (a.device == "cuda" && !pick_device().is_cuda()) {
    std::puts("skipped: no GPU");
    return 4;
  }
  a.settings.device = a.device == "cuda" ? pick_device() : at::Device(at::kCPU);
  torch::manual_seed(1);
  Bench bench(a.settings);
  for (const auto& [name, run] : kSubjects) {
    if (!a.subjects.empty() && std::find(a.subjects.begin(), a.subjects.end(), name) == a.subjects.end()) continue;
    try {
      run(bench);
    } catch (const std::exception& error) {  // one subject's trouble is not the others'
      std::cout << nlohmann::json{{"subject", name}, {"case", "setting up"}, {"failed", std::string(error.what()).substr(0, 300)}}.dump()
                << std::endl;
    }
  }
  return 0;
}

}  // namespace

void add_operators(CLI::App& app, Action& run) {
  auto a = std::make_shared<OperatorArguments>();
  CLI::App* command = app.add_subcommand("operators", "Our operators against their peers, one JSON line each");
  command->add_option("--device", a->device, "")->check(CLI::IsMember({"cuda", "cpu"}));
  command->add_flag("--tiny", a->settings.tiny, "Shapes that a CPU does in no time");
  command->add_flag("--once", a->settings.once, "Each program once, untimed: for compute-sanitizer");
  command->add_option("--seconds-each", a->settings.seconds_each, "For one comparison")->check(CLI::PositiveNumber);
  command->add_option("subjects", a->subjects, "None: all")->check(CLI::IsMember(&kSubjects));
  command->callback([a, &run] { run = [a] { return compare_operators(*a); }; });
}

}  // namespace meristem::bench
