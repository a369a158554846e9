#include "train/samples.h"

#include <algorithm>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "core/file.h"
#include "data/token_source.h"
#include "eval/generate.h"
#include "train/scripts.h"

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

}  // namespace

void write_sample(LiveModel& live, const DepthPlan& plan, const RunConfig& config, const RunFolder& folder, at::Device device,
                  std::int64_t step) {
  const auto prompt = prompt_of(config);
  GenerateOptions options;
  options.max_tokens = config.logging.sample_tokens;
  options.temperature = 0.8;
  options.top_p = 0.95;
  options.seed = static_cast<std::uint64_t>(config.run.seed);
  const auto ids = generate(live.model(), plan, config.model.vocab_size, prompt, options, device, {});
  const nlohmann::json sample{{"step", step}, {"prompt_ids", prompt}, {"ids", ids}};
  write_file_durably(folder.samples() / fmt::format("step-{:010}.json", step), sample.dump() + "\n");
}

std::string draw_plots(const RunFolder& folder) {
  const std::string trouble = run_script("plot_run.py", {folder.root().string()});
  return trouble.empty() ? "" : fmt::format("plots not drawn: {}; draw them with scripts/meristem plot", trouble);
}

}  // namespace meristem
