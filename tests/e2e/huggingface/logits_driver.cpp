// logits_driver [--plan PLAN] CHECKPOINT ID…: logits of every position on stdout, float32, row by row.
#include <cstdio>
#include <string>

#include <torch/torch.h>

#include "cli/checkpoint_model.h"

int main(int argc, char** argv) {
  using namespace meristem;
  std::string plan;
  if (argc > 2 && std::string(argv[1]) == "--plan") {
    plan = argv[2];
    argv += 2;
    argc -= 2;
  }
  torch::NoGradGuard no_grad;
  const cli::CheckpointModel opened = cli::open_checkpoint_model(argv[1], at::kCPU);
  std::vector<std::int32_t> ids;
  for (int i = 2; i < argc; ++i) ids.push_back(std::stoi(argv[i]));
  const auto count = static_cast<std::int64_t>(ids.size());
  Batch batch;
  batch.tokens_N = torch::tensor(ids, torch::kInt);
  batch.positions_N = torch::arange(count, torch::kInt);
  batch.documents = ops::Documents::uniform(1, count);
  const at::Tensor logits = opened.model->logits(batch, plan.empty() ? opened.plan : DepthPlan::parse(plan)).to(at::kFloat).contiguous();
  const auto values = static_cast<std::size_t>(logits.numel());
  return std::fwrite(logits.data_ptr(), sizeof(float), values, stdout) == values ? 0 : 1;
}
