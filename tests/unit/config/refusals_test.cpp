// What no config may say. Each case names what its one line has to name: the key's full path, and where that stands in the file.
#include <algorithm>

#include "core/file.h"
#include "support/catch.h"
#include "support/temp_dir.h"
#include "unit/config/refused.h"

namespace meristem {
namespace {

const std::string kGrowing = R"(run: {name: tiny, seed: 3, out: runs}
model: {vocab_size: 61, width: 32, blocks: 6, attention: {heads: 2, kv_heads: 1}, feed_forward: {inner: 48}}
growth: {operator: lidas, from_blocks: 2, add_blocks: 2, schedule: {kind: at_steps, at_steps: [20, 40]}}
data:
  sequence_length: 32
  sources: {one: {path: data/one}, two: {path: data/two}}
  validation: {held: {path: data/held}, every: 10}
phases:
  - {name: first, from_step: 0, mixture: {one: 0.7, two: 0.3}}
  - {name: second, from_step: 40, mixture: {one: 0.2, two: 0.8}}
optimizer: {lr: 3e-3}
schedule: {steps: 60, warmup: 5}
batch: {tokens: 64, micro_sequences: 1}
checkpoint: {every: 2, keep_last: 2}
logging: {every: 1, sample_tokens: 4}
)";

const std::string kLooped = R"(run: {name: tiny, seed: 3, out: runs}
model:
  vocab_size: 61
  width: 32
  blocks: 4
  depth_plan: "0, (1-2)x3, 3"
  attention: {heads: 2, kv_heads: 1}
  feed_forward: {inner: 48}
data: {sequence_length: 32, sources: {one: {path: data/pattern}}, validation: {held: {path: data/pattern}, every: 20}}
optimizer: {lr: 3e-3}
schedule: {steps: 60, warmup: 5}
batch: {tokens: 64, micro_sequences: 1}
)";

using Named = std::vector<std::string>;

void check_named(const std::string& message, const Named& named) {
  CHECK(message != "accepted");
  CHECK(message.find('\n') == std::string::npos);
  for (const std::string& part : named) CHECK_THAT(message, Catch::Contains(part));
}

// `from` of kGrowing is replaced by `to`; one of the lines of `to` is the line to be named.
struct Change {
  std::string from, to;
  Named named;
};

std::int64_t line_at(const std::string& text, std::size_t at) {
  return 1 + std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(at), '\n');
}

void refuse_changes(const std::vector<Change>& changes) {
  REQUIRE(refused(kGrowing) == "accepted");
  for (const Change& change : changes) {
    INFO(change.to);
    const auto at = kGrowing.find(change.from);
    REQUIRE(at != std::string::npos);
    REQUIRE(kGrowing.find(change.from, at + 1) == std::string::npos);
    std::string text = kGrowing;
    text.replace(at, change.from.size(), change.to);
    const std::string message = refused(text);
    check_named(message, change.named);
    bool line_named = false;
    for (std::int64_t line = line_at(text, at); line <= line_at(text, at + change.to.size()); ++line)
      line_named = line_named || message.rfind("run.yaml:" + std::to_string(line) + ":", 0) == 0;
    INFO(message);
    CHECK(line_named);
  }
}

TEST_CASE("unknown keys are refused at every level, with the key that may have been meant") {
  refuse_changes({
      {"logging: {", "loging: {", {"loging", "did you mean"}},
      {"width: 32", "widht: 32", {"model.widht", "did you mean width"}},
      {"heads: 2", "heads: 2, dropout: 0.1", {"model.attention.dropout"}},
      {"at_steps: [20, 40]", "at_steps: [20, 40], until_step: 3", {"growth.schedule.until_step"}},
      {"sequence_length: 32", "sequence_length: 32\n  shuffle: true", {"data.shuffle"}},
      {"path: data/one", "path: one, weight: 1", {"data.sources.one.weight"}},
      {"name: first,", "name: first, lr: 1,", {"phases[0].lr"}},
      {"warmup: 5", "warm_up: 5", {"schedule.warm_up", "did you mean warmup"}},
      {"keep_last: 2", "keep_lats: 2", {"checkpoint.keep_lats", "did you mean keep_last"}},
      {"optimizer: {lr: 3e-3}", "optimizer: {lr: 3e-3, momentum: 0.9}", {"optimizer.momentum"}},
  });
}

TEST_CASE("duplicate keys are refused at every level") {
  refuse_changes({
      {"logging: {", "run: {name: b}\nlogging: {", {"run", "duplicate"}},
      {"width: 32", "width: 32, width: 64", {"width", "duplicate"}},
      {"heads: 2", "heads: 2, heads: 4", {"heads", "duplicate"}},
      {"from_blocks: 2", "from_blocks: 2, from_blocks: 2", {"from_blocks", "duplicate"}},
      {"sources: {one:", "sources: {one: {path: x}, one:", {"one", "duplicate"}},
      {"mixture: {one: 0.7", "mixture: {one: 0.7, one: 0.7", {"one", "duplicate"}},
      {"warmup: 5", "warmup: 5, steps: 60", {"steps", "duplicate"}},
      {"every: 1,", "every: 1, \"every\": 2,", {"every", "duplicate"}},
      {"optimizer: {lr: 3e-3}", "optimizer: {lr: 3e-3}\noptimizer: {lr: 3e-3}", {"optimizer", "duplicate"}},
  });
}

TEST_CASE("keys that contradict each other are refused") {
  refuse_changes({
      {"kind: at_steps", "kind: prop", {"growth.schedule.at_steps"}},
      {"from_blocks: 2", "from_blocks: 6", {"growth.from_blocks"}},
      {"add_blocks: 2", "add_blocks: 3", {"growth.add_blocks"}},
      {"kv_heads: 1", "kv_heads: 3", {"model.attention.kv_heads"}},
      {"warmup: 5", "warmup: 5, decay: {kind: none, from_step: 50}", {"schedule.decay"}},
      {"from_step: 40", "from_step: 60", {"phases[1].from_step"}},
      {"name: second", "name: first", {"phases[1].name"}},
      {"one: 0.2, two: 0.8", "three: 1", {"phases[1].mixture.three"}},
      {"one: 0.2, two: 0.8", "one: 0, two: 0", {"phases[1].mixture"}},
      {"blocks: 6", "blocks: 6, depth_plan: \"0-4\"", {"model.depth_plan"}},
      {"at_steps: [20, 40]", "at_steps: [20, 60]", {"growth.schedule.at_steps"}},
      {"checkpoint: {", "precision: {compute: fp32, residual: bf16}\ncheckpoint: {", {"precision.residual"}},
  });
}

TEST_CASE("what is no number, or out of range, is refused") {
  refuse_changes({
      {"seed: 3", "seed: 010", {"run.seed"}},
      {"seed: 3", "seed: -1", {"run.seed"}},
      {"seed: 3", "seed: 99999999999999999999", {"run.seed"}},
      {"width: 32", "width: 32.5", {"model.width"}},
      {"width: 32", "width: 0", {"model.width"}},
      {"width: 32", "width: 3_2", {"model.width"}},
      {"lr: 3e-3", "lr: .nan", {"optimizer.lr"}},
      {"lr: 3e-3", "lr: .inf", {"optimizer.lr"}},
      {"lr: 3e-3", "lr: 1e400", {"optimizer.lr"}},
      {"lr: 3e-3", "lr: 0", {"optimizer.lr"}},
      {"lr: 3e-3", "lr: 3e-3, betas: [0.9, 1.0]", {"optimizer.betas"}},
      {"lr: 3e-3", "lr: 3e-3, betas: [0.9]", {"optimizer.betas"}},
      {"one: 0.7", "one: -0.7", {"phases[0].mixture.one"}},
  });
}

TEST_CASE("wrong types are refused") {
  refuse_changes({
      {"width: 32", "width: wide", {"model.width"}},
      {"width: 32", "width: \"32\"", {"model.width"}},
      {"width: 32", "width: {a: 1}", {"model.width"}},
      {"width: 32", "width: true", {"model.width"}},
      {"width: 32", "width: null", {"model.width"}},
      {"optimizer: {lr: 3e-3}", "optimizer: adamw", {"optimizer"}},
      {"seed: 3", "seed: 3, deterministic: 1", {"run.deterministic"}},
      {"keep_last: 2", "keep_last: 2, async: maybe", {"checkpoint.async"}},
      {"mixture: {one: 0.7, two: 0.3}", "mixture: [0.7, 0.3]", {"phases[0].mixture"}},
      {"operator: lidas", "operator: grow", {"growth.operator", "midas"}},
      {"name: tiny", "name: a/b", {"run.name"}},
  });
}

TEST_CASE("a text that is no config is refused") {
  for (const std::string& text :
       {std::string(), std::string("just a word"), std::string("- a\n- list"), std::string("a: [1"), std::string("a: &x 1\nb: *x"),
        std::string("a: !!python/object 1"), std::string("run: {name: x}\n---\nrun: {}"), std::string(1, '\0'), std::string(200, '{'),
        std::string("run: \"\xff")}) {
    INFO(text);
    check_named(refused(text), {"run.yaml"});
  }
}

// Overrides of kLooped, and what is to be named.
struct Overrides {
  std::vector<std::string> overrides;
  Named named;
};

void refuse_overrides(const std::vector<Overrides>& cases) {
  const test::TempDir folder;
  write_file_durably(folder / "run.yaml", kLooped);
  for (const Overrides& c : cases) {
    INFO(c.overrides.front());
    check_named(refused(folder / "run.yaml", c.overrides), c.named);
  }
}

const std::string kSampled = "model.loop.repeats={kind: poisson_lognormal, mean: 3, sigma: 0.5, max: 6}";

TEST_CASE("repeats that cannot be are refused") {
  const std::string key = "model.loop.repeats";
  refuse_overrides({
      {{key + "={kind: poisson_lognormal, mean: 3}"}, {key + ".max", "required"}},
      {{key + "={kind: poisson_lognormal, max: 3}"}, {key + ".mean", "required"}},
      {{key + "={kind: poisson_lognormal, mean: 4, max: 3}"}, {key + ".max", "mean = 4"}},
      {{key + "={kind: uniform, mean: 4, max: 8}"}, {key + ".kind", "poisson_lognormal"}},
      {{key + "={kind: poisson_lognormal, mean: 4, max: 8, sgima: 1}"}, {key + ".sgima", "did you mean sigma"}},
      {{key + "={0: 1, 60: 2}"}, {key + ".60", "schedule.steps = 60"}},
      {{key + "={10: 1, 20: 2}"}, {key + ".10", "update 0"}},
      {{key + "={0: 1, 30: 2, 20: 3}"}, {key + ".20", "after the entry before"}},
      {{key + "={0: 1, soon: 3}"}, {key + ".soon"}},
      {{key + "={0: 1, 40: 0}"}, {key + ".40", "at least 1"}},
      {{key + "={}"}, {key, "empty map"}},
      {{key + "=0"}, {key, "at least 1"}},
      {{key + "=1.5"}, {key, "whole number"}},
      {{key + "=often"}, {key, "whole number"}},
      {{key + "=[1, 2]"}, {key, "a list"}},
      {{key + "=60000"}, {key, "65536 calls"}},
  });
}

TEST_CASE("settings of a loop that is not there are refused") {
  for (const std::string& setting :
       {std::string("model.loop.repeats=2"), std::string("model.loop.injection=add"), std::string("model.loop.backprop_last=1")}) {
    const std::string key = setting.substr(0, setting.find('='));
    refuse_overrides({
        {{setting, "model.depth_plan=\"0-3\""}, {"model.depth_plan", key, "exactly one loop group"}},
        {{setting, "model.depth_plan=\"(0-1)x2, (2-3)x2\""}, {"model.depth_plan", key, "exactly one loop group"}},
        {{setting, "model.depth_plan=\"((0-1)x2, 2-3)x2\""}, {"model.depth_plan", key, "exactly one loop group"}},
        {{setting, "phases=[{name: a, from_step: 0, mixture: {one: 1}}, {name: b, from_step: 30, mixture: {one: 1}, depth_plan: \"0-3\"}]"},
         {"phases[1].depth_plan", key}},
    });
  }
  refuse_overrides({
      {{"model.loop.backprop_last=3"}, {"model.loop.backprop_last", "at most 3 times"}},
      {{kSampled, "model.loop.backprop_last=6"}, {"model.loop.backprop_last", "at most 6 times"}},
      {{"model.loop.backprop_last=0"}, {"model.loop.backprop_last", "at least 1"}},
      {{"model.loop.injection=conact"}, {"model.loop.injection", "did you mean concat"}},
  });
}

TEST_CASE("plans that the model, its growth or its phases cannot have are refused") {
  const std::string growth = "growth={operator: lidas, from_blocks: 2, add_blocks: 2, schedule: {kind: at_steps, at_steps: [20]}";
  refuse_overrides({
      {{"model.depth_plan=\"0, (1-4)x2\""}, {"model.depth_plan", "block 4", "0 to 3"}},
      {{"model.depth_plan=\"0, (1)x2, 3\""}, {"model.depth_plan", "never calls block 2"}},
      {{growth + "}"}, {"growth.plans", "missing"}},
      {{growth + ", plans: [\"0, (1-2)x3, 3\"]}"}, {"growth.plans", "2 stages"}},
      {{growth + ", plans: [\"0-1\", \"(0-3)x2\"]}"}, {"growth.plans[1]", "model.depth_plan"}},
      {{growth + ", plans: [\"0-2\", \"0, (1-2)x3, 3\"]}"}, {"growth.plans[0]", "block 2"}},
      {{growth + ", plans: [\"0-1\", \"0, (1-2)x3, 3\"]}", "model.loop.repeats=2"},
       {"growth.plans[0]", "model.loop.repeats", "exactly one loop group"}},
      {{"growth={operator: lidas, from_blocks: 1, add_blocks: 2}"}, {"growth.add_blocks"}},
      {{"memory.activation_checkpointing=blocks"}, {"memory.activation_checkpointing", "did you mean block"}},
      {{"memory.activation_checkpointing={every: 0}"}, {"memory.activation_checkpointing.every", "at least 1"}},
  });
}

TEST_CASE("overrides and variants that name nothing are refused with the argument or the line") {
  refuse_overrides({
      {{"model.widht=3"}, {"model.widht", "did you mean width"}},
      {{"model.width=x"}, {"model.width"}},
      {{"phases.7.name=x"}, {"phases"}},
      {{"nonsense"}, {"nonsense"}},
      {{"=3"}, {"=3"}},
      {{"variant=none"}, {"variant"}},
  });
  const test::TempDir folder;
  const auto with = [&](const std::string& variants, const Named& named) {
    INFO(variants);
    write_file_durably(folder / "run.yaml", kGrowing + "variants:\n  same: {}\n  more: {logging: {every: 2}}\n" + variants);
    check_named(refused(folder / "run.yaml", {}), named);
  };
  with("  last: {run: {name: x}}\n", {"run.yaml:19: variants.last.run.name", "NAME-last"});
  with("  last: {run.name: x}\n", {"run.yaml:19: variants.last.run.name"});
  with("  last:\n    phases[2].mixture: {one: 1}\n", {"run.yaml:20: phases[2].mixture: found '2'"});
  with("  last: {optimiser: {lr: 1}}\n", {"run.yaml:19: optimiser: unknown key"});
  with("  last:\n    phases[1].ramp_steps: 21\n", {"run.yaml:20: phases[1].ramp_steps: found 21; allowed: at most the phase's 20"});
  with("  last: [1]\n", {"run.yaml:19: variants.last: found a list"});
  with("  a/b: {}\n", {"run.yaml:19: variants: found the name 'a/b'"});
  write_file_durably(folder / "run.yaml", kGrowing + "variants: {same: {}, more: {logging: {every: 2}}}\n");
  check_named(refused(folder / "run.yaml", {"variant=none"}), {"no such variant", "same, more"});
}

TEST_CASE("model sections that contradict themselves are refused") {
  for (const auto& [model, named] : std::vector<std::pair<std::string, Named>>{
           {"feed_forward: {kind: experts, count: 4, active: 5, inner: 8}", {"model.feed_forward.active", "at most count = 4"}},
           {"feed_forward: {kind: experts, active: 2, inner: 8}", {"model.feed_forward.count", "is missing"}},
           {"feed_forward: {kind: experts, count: 4, active: 2}", {"model.feed_forward.inner", "is missing"}},
           {"feed_forward: {kind: experts, count: 4, active: 2, inner: 8, router_dim: 3}", {"model.feed_forward.router_dim", "even"}},
           {"feed_forward: {count: 4}", {"model.feed_forward.count", "no effect"}},
           {"feed_forward: {balance_rate: 0}", {"model.feed_forward.balance_rate", "no effect"}},
           {"depth_attention: {heads: 3}", {"model.depth_attention.heads", "divisor of width = 32"}},
           {"depth_attention: {heads: 32}", {"model.depth_attention.heads", "even"}},
           {"depth_attention: {kind: joint, heads: 2}", {"model.depth_attention.heads", "no effect"}},
           {"depth_attention: {kind: values, position: none}", {"model.depth_attention.position", "no effect"}},
           {"depth_attention: {kind: both}", {"model.depth_attention.kind", "separate"}},
           {"norm: twice", {"model.norm", "post"}},
           {"attention: {qk_norm_over: all}", {"model.attention.qk_norm_over", "no effect"}},
           {"attention: {qk_norm: true, qk_norm_over: rows}", {"model.attention.qk_norm_over", "heads, all"}},
           {"architecture: dreamer, blocks: 3", {"model.blocks", "divisor of dreamer's 16 calls"}}}) {
    INFO(model);
    check_named(refused("model: {vocab_size: 64, width: 32, " + model + "}\ndata: {sources: {a: {path: b}}}\n"), named);
  }
}

// ---- A setting that nothing reads is refused, with its own key and the one that makes it idle.

std::string growth(const std::string& keys) { return refused(small_config("growth: {from_blocks: 2, " + keys + "}\n")); }

TEST_CASE("growth settings that nothing reads are refused") {
  CHECK(growth("add_blocks: 2, schedule: {kind: at_steps, at_steps: [50]}") == "accepted");
  CHECK(says(growth("add_blocks: 2, schedule: {kind: at_steps, at_steps: [50], alpha: 1}"),
             "run.yaml:6: growth.schedule.alpha: has no effect with growth.schedule.kind: at_steps"));
  CHECK(says(growth("add_blocks: 2, schedule: {kind: at_steps, at_steps: [50], until: 0.5}"), "growth.schedule.until: has no effect"));
  CHECK(growth("operator: stack") == "accepted");
  CHECK(says(growth("operator: stack, add_blocks: 2"), "growth.add_blocks: has no effect with growth.operator: stack"));
  CHECK(says(growth("operator: map, maps: [[0, 1, 1, 0]], add_blocks: 2"), "growth.add_blocks: has no effect with growth.operator: map"));
  CHECK(says(growth("operator: map, maps: [[0, 1, 1, 0], [0, 1, 2, 3, 3]]"), "growth.maps: has 2 maps; 1 lead to model.blocks = 4"));
  CHECK(says(growth("add_blocks: 2, maps: [[0, 1, 1, 0]]"), "growth.maps: contradicts growth.operator: lidas"));
}

TEST_CASE("a silent growth that would change the model is refused") {
  const auto silent = [](const std::string& keys) { return growth("inserted: silent, " + keys); };
  CHECK(silent("add_blocks: 2") == "accepted");
  CHECK(silent("operator: map, maps: [[0, 0, 1, 1]]") == "accepted");
  CHECK(
      says(silent("operator: map, maps: [[1, 0, 1, 0]]"), "growth.inserted: silent: the plan 0-3 without its inserted blocks is not 0-1"));
  CHECK(says(refused(small_config("growth: {from_blocks: 2, add_blocks: 2, inserted: quiet}\n")), "allowed: copy, silent"));
}

TEST_CASE("settings of other sections that nothing reads are refused") {
  CHECK(says(refused(small_config("checkpoint: {every: 0, keep_every: 10}\n")),
             "checkpoint.keep_every: has no effect with checkpoint.every: 0"));
  CHECK(says(refused(small_config("logging: {sample_every: 10, sample_tokens: 0}\n")),
             "logging.sample_every: has no effect with logging.sample_tokens: 0"));
  CHECK(says(refused(small_config("optimizer: {weight_decay: 0, decay_embeddings: true}\n")),
             "optimizer.decay_embeddings: has no effect with optimizer.weight_decay: 0"));
  CHECK(refused(small_config("checkpoint: {every: 0}\nlogging: {sample_tokens: 0}\noptimizer: {weight_decay: 0}\n")) == "accepted");
}

TEST_CASE("Muon's settings belong to Muon, and its original scale needs a learning rate") {
  const auto optimizer = [](const std::string& keys) { return refused(small_config("optimizer: {" + keys + "}\n")); };
  CHECK(optimizer("kind: muon") == "accepted");
  CHECK(optimizer("kind: muon, muon: {momentum: 0.9, nesterov: false, ns_steps: 6, scale: moonlight, lr: 1e-3}") == "accepted");
  CHECK(optimizer("kind: muon, muon: {scale: original, lr: 0.02}") == "accepted");
  CHECK(says(optimizer("kind: muon, muon: {scale: original}"), "optimizer.muon.lr: is required with optimizer.muon.scale: original"));
  CHECK(says(optimizer("muon: {}"), "optimizer.muon: has no effect with optimizer.kind: adamw"));
  CHECK(optimizer("muon: null") == "accepted");
  CHECK(says(optimizer("kind: muno"), "optimizer.kind"));
  CHECK(says(optimizer("kind: muon, muon: {scale: adamw}"), "optimizer.muon.scale: found adamw; allowed: moonlight, original"));
  CHECK(says(optimizer("kind: muon, muon: {momentum: 1}"), "optimizer.muon.momentum"));
  CHECK(says(optimizer("kind: muon, muon: {momentum: 0}"), "optimizer.muon.momentum"));
  CHECK(says(optimizer("kind: muon, muon: {ns_steps: 0}"), "optimizer.muon.ns_steps"));
  CHECK(says(optimizer("kind: muon, muon: {lr: 0}"), "optimizer.muon.lr"));
}

}  // namespace
}  // namespace meristem
