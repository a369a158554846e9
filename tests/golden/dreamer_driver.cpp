// golden_dreamer RUN.yaml OUT: builds the config's model in fp32 with lively weights, runs one batch, and writes weights, inputs, logits,
// loss and gradients as safetensors. Prints the blocks of the plan's calls, its loop (start, length, repeats) and the counted FLOPs as
// JSON. dreamer_reference.py compares.
#include <iostream>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "checkpoint/safetensors.h"
#include "checkpoint/tensors.h"
#include "config/load.h"
#include "models/costs.h"
#include "support/variants.h"

using namespace meristem;

int main(int count, char** arguments) {
  if (count != 3) return 2;
  const RunConfig config = load_config(arguments[1], {});
  ModelBuild build = test::build_of(at::kFloat, ops::Path::kFused);
  build.checkpoint_every = config.memory.activation_checkpointing.every;
  const auto model = test::make_lively_model(config.model, build);
  const DepthPlan plan = config.model.depth_plan.plan;
  const Batch batch =
      test::random_batch(config.batch.tokens / config.data.sequence_length, config.data.sequence_length, config.model.vocab_size, 3);
  const nn::LossSums loss = model->loss(batch, plan);
  loss.loss_sum.backward();
  NamedTensors out;
  out.add("tokens", batch.tokens_N);
  out.add("targets", batch.targets_N);
  out.add("loss", loss.loss_sum);
  out.add("logits", model->logits(batch, plan));
  for (const ParameterInfo& info : model->parameter_infos()) {
    out.add("weight." + info.name, info.tensor);
    if (info.tensor.grad().defined()) out.add("gradient." + info.name, info.tensor.grad());
  }
  NamedTensors host;
  for (const auto& [name, tensor] : out) host.add(name, host_copy(tensor));
  write_safetensors(arguments[2], views_of(host));
  const double flops = stage_cost(config, builtin_registry(), {0, 0, config.model.blocks, plan, {}}).flops.forward;
  const LoopSpan loop = plan.loop().value_or(LoopSpan{});
  std::cout << fmt::format("{{\"calls\": [{}], \"loop\": [{}, {}, {}], \"flops_per_token_forward\": {}}}\n", fmt::join(plan.calls(), ", "),
                           loop.start, loop.length, loop.repeats, flops);
}
