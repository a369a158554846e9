// own_driver OUT ID…: the architecture of docs/adding_an_architecture.md exported by code to OUT; its logits of every position on stdout,
// float32.
#include <cstdio>
#include <filesystem>
#include <string>

#include <torch/torch.h>

#include "checkpoint/tensors.h"
#include "interop/hf_folder.h"
#include "own_architecture.h"

namespace {

using namespace meristem;

ModelConfig small() {
  ModelConfig config;
  config.architecture = "gated_linear";
  config.vocab_size = 61;
  config.width = 32;
  config.blocks = 3;
  config.depth_plan = "0, (1)x2, 2";
  config.attention = {4, 2, 8, 10000, false};
  config.feed_forward.inner = 48;
  config.options = {{"heads", 2}, {"gate_rank", 4}};
  return config;
}

}  // namespace

int main(int argc, char** argv) {
  const std::filesystem::path out = argv[1];
  torch::NoGradGuard no_grad;
  ModelRegistry registry = builtin_registry();
#include "own_registration.inc"
  const ModelConfig config = small();
  const auto model = registry.make(config, {}, 64);
  NamedTensors weights;
  for (const auto& [name, value] : nn::initial_values(*model, 1))
    weights.add(name, value * (name.find("gate_") == std::string::npos ? 5 : 100));
  for (const ParameterInfo& info : model->parameter_infos()) at::Tensor(info.tensor).copy_(weights.at(info.name));
  const std::filesystem::path file = out.string() + ".safetensors";
  write_safetensors(file, views_of(weights));
  export_with_code(SafetensorsFile::open(file), config, model->parts(0), config.depth_plan.text, 64, {}, out);

  std::vector<std::int32_t> ids;
  for (int i = 2; i < argc; ++i) ids.push_back(std::stoi(argv[i]));
  const auto count = static_cast<std::int64_t>(ids.size());
  Batch batch;
  batch.tokens_N = torch::tensor(ids, torch::kInt);
  batch.positions_N = torch::arange(count, torch::kInt);
  batch.documents = ops::Documents::uniform(1, count);
  const at::Tensor logits = model->logits(batch, config.depth_plan.plan).contiguous();
  const auto values = static_cast<std::size_t>(logits.numel());
  return std::fwrite(logits.data_ptr(), sizeof(float), values, stdout) == values ? 0 : 1;
}
