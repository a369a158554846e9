#include "models/costs.h"

#include "config/load.h"
#include "core/errors.h"
#include "core/file.h"
#include "support/catch.h"
#include "support/temp_dir.h"

using namespace meristem;

namespace {

RunConfig dreamer(const std::string& model) {
  return parse_config(
      "model: {architecture: dreamer, " + model + "}\ndata: {sequence_length: 512, sources: {a: {path: a}}}\nbatch: {tokens: 512}\n",
      "dreamer.yaml");
}

const std::string kReady =
    "vocab_size: 49152, width: 384, blocks: 1, depth_plan: \"(0)x16\", attention: {heads: 6}, depth_attention: {heads: 1}, "
    "feed_forward: {kind: experts, count: 1024, active: 8, inner: 64}";

}  // namespace

TEST_CASE("baselines match a Dreamer-style model within 1 %, counted from their own configs") {
  for (const std::string& model :
       {kReady, std::string("vocab_size: 1000, width: 128, blocks: 2, depth_plan: \"(0-1)x4\", attention: {heads: 4, kv_heads: 2}, "
                            "depth_attention: {heads: 2}, feed_forward: {kind: experts, count: 256, active: 4, inner: 32, shared: 1}")}) {
    const RunConfig config = dreamer(model);
    const ModelRegistry registry = builtin_registry();
    const Match match = match_baselines(config, registry);
    REQUIRE(match.baselines.size() == 3);
    for (const MatchedBaseline& baseline : match.baselines) {
      INFO(baseline.name);
      // The run that the printed overrides describe, counted by `plan` itself.
      const test::TempDir folder;
      write_file_durably(folder / "dreamer.yaml", dump_config(config));
      const RunConfig run = load_config(folder / "dreamer.yaml", overrides_of(baseline));
      const StageCost cost = stage_costs(run, Timeline(run), registry).back(),
                      original = stage_costs(config, Timeline(config), registry).back();
      CHECK(cost.flops.forward == Approx(original.flops.forward).epsilon(0.01));
      CHECK(cost.kv_bytes_per_token == Approx(original.kv_bytes_per_token).epsilon(0.01));
      CHECK(cost.flops.forward == baseline.cost.flops.forward);
      CHECK(cost.parameters.total == baseline.cost.parameters.total);
      if (baseline.name == "layered_dense") {
        CHECK(cost.parameters.total < original.parameters.total);
      } else {
        CHECK(static_cast<double>(cost.parameters.total) == Approx(static_cast<double>(original.parameters.total)).epsilon(0.01));
        CHECK(run.model.feed_forward.count >= 2 * run.model.feed_forward.active);
        CHECK(run.model.feed_forward.inner % 8 == 0);
      }
      CHECK(run.model.depth_attention.has_value() == false);
    }
  }
}

TEST_CASE("what has no match is refused with the bound") {
  const ModelRegistry registry = builtin_registry();
  const auto refusal = [&](const std::string& model) {
    try {
      match_baselines(dreamer(model), registry);
    } catch (const InputError& error) {
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  std::string few = kReady;
  few.replace(few.find("1024"), 4, "64");
  CHECK_THAT(refusal(few), Catch::Contains("E/R > k + (4d/3f)(2 - 2/R), and here E/R = 4, the right side 23"));
  std::string plain = kReady;
  plain.replace(plain.find("depth_attention: {heads: 1}, "), 29, "");
  CHECK_THAT(refusal(plain), Catch::Contains("model.depth_attention: found null"));
  CHECK_THAT(refusal("vocab_size: 100, width: 64, blocks: 1, attention: {heads: 2}, depth_attention: {heads: 1}"),
             Catch::Contains("--match needs experts"));
}
