#include <algorithm>
#include <iterator>

#include "config/load.h"
#include "core/file.h"
#include "fuzz/format.h"
#include "fuzz/mutate.h"

namespace meristem::fuzz {
namespace {

constexpr const char* kSmall = R"(model: {vocab_size: 512, width: 64, blocks: 2}
data:
  sequence_length: 64
  sources:
    text: {path: data/text}
schedule: {steps: 10}
)";

constexpr const char* kFull = R"(run: {name: smollm-360m-lidas, seed: 1, out: runs, deterministic: false}
model:
  architecture: decoder
  vocab_size: 49152
  width: 960
  blocks: 32
  depth_plan: "0-31"
  attention: {heads: 15, kv_heads: 5, head_dim: 64, rope_theta: 10000, qk_norm: false}
  feed_forward: {kind: swiglu, inner: 2560}
  tie_embeddings: true
growth: {operator: lidas, from_blocks: 4, add_blocks: 4, schedule: {kind: prop, alpha: 1, until: 0.85}, moments: copy, rewarm_steps: 0}
data:
  sequence_length: 2048
  document_mask: true
  sources:
    fineweb-edu: {path: data/fineweb-edu, max_repeats: 4}
    cosmopedia-v2: {path: data/cosmopedia-v2}
  validation: {fineweb-edu: {path: data/held-out}, every: 1000, tokens: 2e6}
phases:
  - {name: stable, from_step: 0, mixture: {fineweb-edu: 0.70, cosmopedia-v2: 0.30}}
  - {name: cooldown, from_step: 170000, mixture: {fineweb-edu: 0.5, cosmopedia-v2: 0.5}, ramp_steps: 2000}
optimizer: {kind: adamw, lr: 3e-3, betas: [0.9, 0.95], eps: 1e-8, weight_decay: 0.01, clip_norm: 1.0}
schedule: {steps: 200000, warmup: 2000, decay: {kind: one_minus_sqrt, from_step: 170000}}
batch: {tokens: 1048576, micro_sequences: 8}
precision: {compute: bf16, residual: bf16}
kernels: auto
checkpoint: {every: 1000, keep_last: 3, keep_every: 20000, async: true}
logging: {every: 10, tensorboard: true}
)";

// Names and paths between quotes, where every character can be written.
constexpr const char* kQuoted = R"(run: {name: "a 'run'", out: 'runs \ ''b'}
model: {vocab_size: 512, width: 64, blocks: 2, depth_plan: "0, (1)x2"}
data:
  sequence_length: 64
  sources: {"te xt": {path: "data/\x41\u00e9"}, 'it''s': {path: 'b'}}
  validation: {"held \\ out": {path: "c"}}
phases: [{name: "p", mixture: {"te xt": 1, 'it''s': 2}}]
schedule: {steps: 10}
)";

class Config : public Format {
 public:
  std::string name() const override { return "config"; }

  std::vector<Files> seeds(const std::filesystem::path& /*scratch*/) const override {
    std::vector<Files> out{{{"run.yaml", kSmall}},
                           {{"run.yaml", kFull}},
                           {{"run.yaml", kQuoted}},
                           {{"run.yaml", std::string("variants: {a: {optimizer.lr: 1e-3}}\n") + kSmall}},
                           {{"run.yaml", "include: base.yaml\nrun: {seed: 2}\n"}, {"base.yaml", kSmall}}};
    // Every ready configuration that stands alone.
    std::vector<std::filesystem::path> ready;
    const std::filesystem::path folder = std::filesystem::path(MERISTEM_SOURCE_DIR) / "configs";
    if (std::filesystem::is_directory(folder)) {
      for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
        if (entry.path().extension() == ".yaml") ready.push_back(entry.path());
      }
    }
    std::sort(ready.begin(), ready.end());
    for (const auto& path : ready) {
      try {
        out.push_back({{"run.yaml", dump_config(load_config(path, {}))}});
      } catch (const std::exception&) {
        continue;  // a part that is only included by others
      }
    }
    return out;
  }

  void mutate(Files& files, const Files& other, Dice& dice) const override {
    std::string& text = std::next(files.begin(), static_cast<std::ptrdiff_t>(dice.below(files.size())))->second;
    if (dice.chance(0.03)) text += other.begin()->second.substr(dice.below(other.begin()->second.size()));
    for (std::size_t i = 0; i <= dice.below(3); ++i) mutate_text(text, dice);
  }

  void read(const std::filesystem::path& folder) const override {
    const RunConfig config = load_config(folder / "run.yaml", {});
    // What is accepted can be written into the run folder, and reads back equal.
    const std::string dumped = dump_config(config);
    std::string again;
    try {
      again = dump_config(parse_config(dumped, "again"));
    } catch (const std::exception& error) {
      throw std::logic_error(std::string("the dump of an accepted config is refused: ") + error.what());
    }
    if (again != dumped) throw std::logic_error("the dump of an accepted config reads back different");
  }
};

}  // namespace

std::unique_ptr<Format> config_format() { return std::make_unique<Config>(); }

}  // namespace meristem::fuzz
