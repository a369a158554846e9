// bench_ops [--device cuda|cpu] [--tiny] [--once] [--seconds-each S] [SUBJECT…]: our operators against their peers, one JSON line each.
// Exit code 4 where there is no GPU to measure.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <map>

#include "bench/harness.h"
#include "ops/device.h"

using namespace meristem;

namespace {

const std::map<std::string, void (*)(bench::Bench&)> kSubjects{{"attention", bench::bench_attention},
                                                               {"attention_window", bench::bench_attention_window},
                                                               {"attention_packed", bench::bench_attention_packed},
                                                               {"rms_norm", bench::bench_rms_norm},
                                                               {"cross_entropy", bench::bench_cross_entropy},
                                                               {"adamw", bench::bench_adamw},
                                                               {"depth_attention", bench::bench_depth_attention},
                                                               {"rope", bench::bench_rope},
                                                               {"swiglu", bench::bench_swiglu}};

int usage() {
  std::cerr << "bench_ops: error: allowed: --device cuda|cpu, --tiny, --once, --seconds-each S, and subjects:";
  for (const auto& [name, run] : kSubjects) std::cerr << ' ' << name;
  std::cerr << '\n';
  return 2;
}

}  // namespace

int main(int argc, char** argv) {
  bench::Settings settings;
  std::string device = "cuda";
  std::vector<std::string> subjects;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--tiny") {
      settings.tiny = true;
    } else if (word == "--once") {
      settings.once = true;
    } else if (word == "--device" && i + 1 < argc) {
      device = argv[++i];
    } else if (word == "--seconds-each" && i + 1 < argc) {
      settings.seconds_each = std::atof(argv[++i]);
    } else if (kSubjects.count(word) > 0) {
      subjects.push_back(word);
    } else {
      return usage();
    }
  }
  if (device != "cuda" && device != "cpu") return usage();
  if (device == "cuda" && !pick_device().is_cuda()) {
    std::puts("skipped: no GPU");
    return 4;
  }
  settings.device = device == "cuda" ? pick_device() : at::Device(at::kCPU);
  torch::manual_seed(1);
  bench::Bench bench(settings);
  for (const auto& [name, run] : kSubjects) {
    if (!subjects.empty() && std::find(subjects.begin(), subjects.end(), name) == subjects.end()) continue;
    try {
      run(bench);
    } catch (const std::exception& error) {  // one subject's trouble is not the others'
      std::cout << nlohmann::json{{"subject", name}, {"case", "setting up"}, {"failed", std::string(error.what()).substr(0, 300)}}.dump() << std::endl;
    }
  }
  return 0;
}
