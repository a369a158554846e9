#include "run/validation.h"

#include <algorithm>

#include <fmt/format.h>
#include <torch/torch.h>
#include <nlohmann/json.hpp>

#include "core/file.h"
#include "data/shard.h"
#include "data/validation_reader.h"
#include "eval/generate.h"
#include "step/batches.h"

namespace meristem {
namespace {

constexpr std::int64_t kPromptTokens = 32;

std::vector<std::int32_t> prompt_of(const RunConfig& config) {
  const auto& held_out = config.data.validation.sources;
  const SourceConfig& source = held_out.empty() ? config.data.sources.front().second : held_out.front().second;
  const TokenSource tokens = TokenSource::open(source.path);
  const std::int64_t count = std::min(kPromptTokens, tokens.document_length(0));
  std::vector<std::int32_t> prompt(static_cast<std::size_t>(count));
  tokens.read(0, 0, count, prompt.data(), config.model.vocab_size);
  return prompt;
}

constexpr std::int64_t kRoundsBetweenStops = 4;  // of one batch a rank

bool any_rank(Ranks& ranks, bool here, at::Device device) {
  if (!ranks.several()) return here;
  const at::Tensor flag = torch::full({1}, here ? 1.0 : 0.0, torch::dtype(torch::kDouble).device(device));
  ranks.sum(flag).wait();
  return flag.item<double>() > 0;
}

void add_over_ranks(Ranks& ranks, double& loss, std::int64_t& targets, at::Device device) {
  if (!ranks.several()) return;
  const at::Tensor sums = torch::tensor({loss, static_cast<double>(targets)}, torch::kDouble).to(device);
  ranks.sum(sums).wait();
  const at::Tensor host = sums.cpu();
  loss = host[0].item<double>();
  targets = static_cast<std::int64_t>(host[1].item<double>());
}

}  // namespace

std::vector<ValidationLoss> validate(Model& model, const DepthPlan& plan, const RunConfig& config, at::Device device, Ranks& ranks,
                                     const std::function<bool()>& stop) {
  torch::NoGradGuard no_grad;
  std::vector<ValidationLoss> losses;
  for (const auto& [name, source] : config.data.validation.sources) {
    ValidationReader reader(source, config.data.sequence_length, config.data.document_mask, config.model.vocab_size,
                            config.data.validation.tokens, config.data.packing == Packing::kBestFit);
    double loss = 0;
    std::int64_t targets = 0;
    for (std::int64_t batch = 0; const auto host = reader.next(config.batch.micro_sequences); ++batch) {
      const bool begins_round = batch % (ranks.several() ? ranks.size() * kRoundsBetweenStops : 1) == 0;
      if (begins_round && any_rank(ranks, stop(), device)) return {};
      if (batch % ranks.size() != ranks.rank()) continue;
      loss += model.loss(to_device(*host, device).batch, plan).loss_sum.item<double>();
      targets += std::count_if(host->targets.begin(), host->targets.end(), [](std::int32_t target) { return target >= 0; });
    }
    add_over_ranks(ranks, loss, targets, device);
    losses.push_back({name, targets > 0 ? loss / static_cast<double>(targets) : 0, targets});
  }
  return losses;
}

void write_sample(Model& model, const DepthPlan& plan, const RunConfig& config, const RunFolder& folder, at::Device device,
                  std::int64_t step) {
  const auto prompt = prompt_of(config);
  GenerateOptions options;
  options.max_tokens = config.logging.sample_tokens;
  options.temperature = 0.8;
  options.top_p = 0.95;
  options.seed = static_cast<std::uint64_t>(config.run.seed);
  const auto ids = generate(model, plan, config.model.vocab_size, {prompt}, options, device).front();
  const nlohmann::json sample{{"step", step}, {"prompt_ids", prompt}, {"ids", ids}};
  write_file_durably(folder.samples() / fmt::format("step-{:010}.json", step), sample.dump() + "\n");
}

}  // namespace meristem
