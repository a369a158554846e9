// bench_ops [--device cuda|cpu] [--tiny] [--once] [--seconds-each S] [SUBJECT…]: our operators against their peers, one JSON line each.
// Exit code 4 where there is no GPU to measure.
#include <algorithm>
#include <cstdio>
#include <iostream>
#include <map>

#include <CLI/CLI.hpp>

#include "bench/harness.h"
#include "ops/paths.h"

using namespace meristem;

namespace {

const std::map<std::string, void (*)(bench::Bench&)> kSubjects{
    {"attention", bench::bench_attention}, {"attention_packed", bench::bench_attention_packed},
    {"rms_norm", bench::bench_rms_norm},   {"cross_entropy", bench::bench_cross_entropy},
    {"adamw", bench::bench_adamw},         {"depth_attention", bench::bench_depth_attention},
    {"rope", bench::bench_rope},           {"swiglu", bench::bench_swiglu}};

struct Arguments {
  bench::Settings settings;
  std::string device = "cuda";
  std::vector<std::string> subjects;  // empty: all
};

void describe(CLI::App& app, Arguments& a) {
  app.add_option("--device", a.device, "")->check(CLI::IsMember({"cuda", "cpu"}));
  app.add_flag("--tiny", a.settings.tiny, "shapes that a CPU does in no time");
  app.add_flag("--once", a.settings.once, "each program once, untimed: for compute-sanitizer");
  app.add_option("--seconds-each", a.settings.seconds_each, "for one comparison")->check(CLI::PositiveNumber);
  app.add_option("subjects", a.subjects, "none: all")->check(CLI::IsMember(&kSubjects));
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Our operators against their peers, one JSON line each", "bench_ops");
  Arguments a;
  describe(app, a);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  if (a.device == "cuda" && !pick_device().is_cuda()) {
    std::puts("skipped: no GPU");
    return 4;
  }
  a.settings.device = a.device == "cuda" ? pick_device() : at::Device(at::kCPU);
  torch::manual_seed(1);
  bench::Bench bench(a.settings);
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
