// logits [--plan PLAN] CHECKPOINT OUT ID…, a command of the test server: the logits of every position, float32, row by row, as the file
// OUT.
#include <fstream>
#include <string>

#include <torch/torch.h>

#include "cli/commands.h"

int logits_main(int argc, char** argv);

int logits_main(int argc, char** argv) {
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
  for (int i = 3; i < argc; ++i) ids.push_back(std::stoi(argv[i]));
  const auto count = static_cast<std::int64_t>(ids.size());
  Batch batch;
  batch.tokens_N = torch::tensor(ids, torch::kInt);
  batch.positions_N = torch::arange(count, torch::kInt);
  batch.documents = ops::Documents::uniform(1, count);
  const at::Tensor logits = opened.model->logits(batch, plan.empty() ? opened.plan : DepthPlan::parse(plan)).to(at::kFloat).contiguous();
  std::ofstream(argv[2], std::ios::binary)
      .write(static_cast<const char*>(logits.data_ptr()), static_cast<std::streamsize>(logits.nbytes()));
  return 0;
}
