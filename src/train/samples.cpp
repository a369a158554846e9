#include "train/samples.h"

#include <algorithm>
#include <cstdlib>

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "core/file.h"
#include "data/token_source.h"
#include "eval/generate.h"

extern char** environ;

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
  const char* python = std::getenv("MERISTEM_PYTHON");
  const char* root = std::getenv("MERISTEM_ROOT");
  if (python == nullptr || root == nullptr) return "plots not drawn: started without scripts/meristem; draw them with scripts/meristem report";
  const std::string script = std::string(root) + "/scripts/python/plot_run.py", target = folder.root().string();
  char* arguments[] = {const_cast<char*>(python), const_cast<char*>(script.c_str()), const_cast<char*>(target.c_str()), nullptr};
  pid_t child = 0;
  if (::posix_spawn(&child, python, nullptr, nullptr, arguments, environ) != 0) return fmt::format("plots not drawn: {} did not start", python);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return "";
  return fmt::format("plots not drawn: {} failed", script);
}

}  // namespace meristem
