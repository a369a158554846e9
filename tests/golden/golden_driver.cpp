// What the Python tests of this folder drive: one training step of the real path on given weights and a given batch.
//   golden_driver CONFIG.yaml WEIGHTS.safetensors BATCH.safetensors OUT.safetensors [--round-gradients] [key=value …]
// WEIGHTS: every parameter of the model by name, fp32. BATCH: int32 tensors inputs, targets, positions [S*T], boundaries [segments + 1],
// source [S]. OUT: logits [N, V] fp32 and grad.<parameter> fp32 (sums over targets), loss [1] and loss_by_source [sources] fp64 (means);
// the metadata say the types of what a step keeps. The learning rate is 0, the batch is cut into micro-batches of batch.micro_sequences.
// --round-gradients plants a defect: the flat gradient buffer is rounded to bf16 after each micro-batch, as if it were kept in bf16.
#include <algorithm>

#include <torch/torch.h>

#include "checkpoint/safetensors.h"
#include "checkpoint/tensors.h"
#include "config/load.h"
#include "core/errors.h"
#include "step/batches.h"
#include "step/update.h"
#include "support/run_main.h"

namespace {

using namespace meristem;

std::vector<std::int32_t> ints(const NamedTensors& tensors, const std::string& name) {
  const at::Tensor values = tensors.at(name).contiguous();
  return {values.data_ptr<std::int32_t>(), values.data_ptr<std::int32_t>() + values.numel()};
}

HostBatch read_batch(const std::filesystem::path& path) {
  const SafetensorsFile file = SafetensorsFile::open(path);
  const NamedTensors tensors = tensors_of(file);
  HostBatch batch;
  batch.inputs = ints(tensors, "inputs");
  batch.targets = ints(tensors, "targets");
  batch.positions = ints(tensors, "positions");
  batch.boundaries = ints(tensors, "boundaries");
  batch.source = ints(tensors, "source");
  batch.sequences = static_cast<std::int64_t>(batch.source.size());
  batch.length = static_cast<std::int64_t>(batch.inputs.size()) / batch.sequences;
  return batch;
}

// The types of all that a step keeps, by what it is: "parameter.<name>", "gradient", "master", "moment", …
std::map<std::string, std::string> types_of(LiveModel& live) {
  const auto text = [](const at::Tensor& tensor) { return std::string(c10::toString(tensor.scalar_type())); };
  std::map<std::string, std::string> types{{"master", text(live.parameters().master())}, {"gradient", text(live.parameters().grad())}};
  for (const ParameterInfo& info : live.model().parameter_infos()) types["parameter." + info.name] = text(info.tensor);
  for (const auto& [name, tensor] : live.optimizer().state()) types["state." + name] = text(tensor);
  return types;
}

void round_to_bf16(const at::Tensor& gradient) { gradient.copy_(gradient.to(at::kBFloat16)); }

void run(std::vector<std::string> arguments) {
  const bool round = std::erase(arguments, "--round-gradients") > 0;
  if (arguments.size() < 4) throw InputError("usage: golden_driver CONFIG WEIGHTS BATCH OUT [--round-gradients] [key=value …]");
  RunConfig config = load_config(arguments[0], {arguments.begin() + 4, arguments.end()});
  const HostBatch all = read_batch(arguments[2]);
  const ModelRegistry registry = builtin_registry();
  LiveModel live(config, Timeline(config), registry, at::kCPU, config.model.blocks, false);
  {
    const SafetensorsFile weights = SafetensorsFile::open(arguments[1]);
    live.parameters().load_masters(tensors_of(weights));
  }
  const DepthPlan plan = config.model.depth_plan.plan;
  at::Tensor logits;
  {
    torch::NoGradGuard no_grad;
    logits = live.model().logits(to_device(all, at::kCPU).batch, plan).to(at::kFloat).contiguous();
  }
  std::int64_t at = 0;
  const auto next = [&](std::int64_t count) {
    torch::NoGradGuard no_grad;
    if (round) round_to_bf16(live.parameters().grad());
    at += count;
    return rows_of(all, at - count, at);
  };
  const std::int64_t micro = config.batch.micro_sequences;
  config.data.sources.resize(static_cast<std::size_t>(*std::max_element(all.source.begin(), all.source.end())) + 1);
  SpikeDetector spikes;
  const UpdateResult result = Updater(live, config, spikes).run(next, {1, plan, 0.0, all.sequences / micro, micro});
  if (round) round_to_bf16(live.parameters().grad());

  NamedTensors out;
  out.add("logits", logits);
  out.add("loss", torch::tensor({result.loss}, torch::kDouble));
  out.add("loss_by_source", torch::tensor(result.loss_by_source, torch::kDouble));
  for (const FlatEntry& entry : live.parameters().entries())
    out.add("grad." + entry.name, live.parameters().view(live.parameters().grad(), entry));
  write_safetensors(arguments[3], views_of(out), types_of(live));
}

}  // namespace

int main(int argc, char** argv) { return test::run_main(argc, argv, run); }
