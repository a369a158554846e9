// golden_muon RUN.yaml GRADIENTS OUT: the config's model with starting weights from run.seed, and one update of its optimizer for each set
// of gradients. GRADIENTS: N.<parameter> fp32 for N = 1, 2, …, and lr [updates] fp32. OUT: 0.<parameter>, the starting weights; then
// N.<parameter> and N.state.<name> after each update. muon_test.py compares.
#include <fmt/format.h>
#include <torch/torch.h>

#include "checkpoint/safetensors.h"
#include "checkpoint/tensors.h"
#include "config/load.h"
#include "core/errors.h"
#include "step/live_model.h"
#include "support/run_main.h"

namespace {

using namespace meristem;

void add_weights(NamedTensors& out, std::int64_t n, const FlatParameters& parameters) {
  for (const auto& [name, tensor] : parameters.masters()) out.add(fmt::format("{}.{}", n, name), tensor.clone());
}

void run(const std::vector<std::string>& arguments) {
  if (arguments.size() != 3) throw InputError("usage: golden_muon RUN.yaml GRADIENTS OUT");
  const RunConfig config = load_config(arguments[0], {});
  const ModelRegistry registry = builtin_registry();
  LiveModel live(config, Timeline(config), registry, at::kCPU, config.model.blocks, /*fresh=*/true);
  FlatParameters& parameters = live.parameters();
  const SafetensorsFile file = SafetensorsFile::open(arguments[1]);
  const NamedTensors given = tensors_of(file);
  NamedTensors out;
  add_weights(out, 0, parameters);
  const at::Tensor rates = given.at("lr");
  for (std::int64_t n = 1; n <= rates.numel(); ++n) {
    {
      torch::NoGradGuard no_grad;
      for (const FlatEntry& entry : parameters.entries())
        parameters.view(parameters.grad(), entry).copy_(given.at(fmt::format("{}.{}", n, entry.name)));
    }
    live.optimizer().step(rates[n - 1], torch::ones({}));
    add_weights(out, n, parameters);
    for (const auto& [name, tensor] : live.optimizer().state()) out.add(fmt::format("{}.state.{}", n, name), tensor.clone());
  }
  write_safetensors(arguments[2], views_of(out));
}

}  // namespace

int main(int argc, char** argv) { return test::run_main(argc, argv, run); }
