#include "train/validation.h"

#include <torch/torch.h>

#include "data/validation_reader.h"
#include "train/batches.h"

namespace meristem {

std::vector<ValidationLoss> validate(Model& model, const DepthPlan& plan, const RunConfig& config, at::Device device,
                                     const std::function<bool()>& stop) {
  torch::NoGradGuard no_grad;
  std::vector<ValidationLoss> losses;
  for (const auto& [name, source] : config.data.validation.sources) {
    ValidationReader reader(source, config.data.sequence_length, config.data.document_mask, config.model.vocab_size,
                            config.data.validation.tokens, config.data.packing == "best_fit");
    double loss = 0;
    std::int64_t targets = 0;
    while (const auto host = reader.next(config.batch.micro_sequences)) {
      if (stop()) return {};
      loss += model.loss(to_device(*host, device), plan).loss_sum.item<double>();
      targets += count_targets(*host);
    }
    losses.push_back({name, targets > 0 ? loss / static_cast<double>(targets) : 0, targets});
  }
  return losses;
}

}  // namespace meristem
