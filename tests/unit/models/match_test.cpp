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

namespace {

// The least that the larger difference can be, in percent, by trying every shape there is; each is counted from a built model.
double least_difference(RunConfig run, const RunConfig& original, std::int64_t most_inner) {
  const ModelRegistry registry = builtin_registry();
  const StageCost wanted = stage_costs(original, Timeline(original), registry).back();
  FeedForwardConfig& ff = run.model.feed_forward;
  const auto cost = [&](std::int64_t count, std::int64_t active, std::int64_t inner) {
    ff.count = count, ff.active = active, ff.inner = inner;
    const StageCost found = stage_cost(run, registry, {0, 0, run.model.blocks, run.model.depth_plan.plan, {}});
    return std::pair(100 * (found.flops.forward / wanted.flops.forward - 1),
                     100 * (static_cast<double>(found.parameters.total) / static_cast<double>(wanted.parameters.total) - 1));
  };
  double least = 1;  // what is farther away is no match
  for (std::int64_t inner = 8; inner <= most_inner; inner += 8) {
    for (std::int64_t active = 1;; ++active) {
      const auto [flops, parameters] = cost(2 * active, active, inner);
      if (std::max(flops, parameters) > 1) break;
      const double slope = cost(2 * active + 1, active, inner).second - parameters;
      const auto first = 2 * active + std::max<std::int64_t>(0, static_cast<std::int64_t>((-1 - parameters) / slope));
      for (std::int64_t count = first;; ++count) {
        const auto [more_flops, more_parameters] = cost(count, active, inner);
        least = std::min(least, std::max(std::abs(more_flops), std::abs(more_parameters)));
        if (more_parameters > 1) break;
      }
    }
  }
  return least;
}

}  // namespace

TEST_CASE("the baseline that is printed is the best of all shapes, not of the rounded ones alone") {
  for (const char* model :
       {"vocab_size: 200, width: 32, blocks: 1, depth_plan: \"(0)x4\", attention: {heads: 4}, depth_attention: {heads: 1}, "
        "feed_forward: {kind: experts, count: 400, active: 3, inner: 16}",
        "vocab_size: 100, width: 64, blocks: 2, depth_plan: \"(0-1)x2\", attention: {heads: 4}, depth_attention: {heads: 2}, "
        "feed_forward: {kind: experts, count: 150, active: 3, inner: 24, shared: 1}"}) {
    const RunConfig config = dreamer(model);
    const Match match = match_baselines(config, builtin_registry());
    for (const MatchedBaseline& baseline : match.baselines) {
      if (baseline.name == "layered_dense") continue;
      INFO(baseline.name << " of " << model);
      CHECK(baseline.worst_percent() <= least_difference(baseline.config, config, 8 * config.model.feed_forward.inner + 8) + 0.01);
    }
  }
}

TEST_CASE("what has no match is refused, with the bound where that is why") {
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
  // Room enough, but too few experts for whole numbers to come near.
  const std::string coarse =
      "vocab_size: 64, width: 32, blocks: 1, depth_plan: \"(0)x2\", attention: {heads: 4}, depth_attention: {heads: 1}, feed_forward: "
      "{kind: "
      "experts, count: 9, active: 1, inner: 512}";
  CHECK_THAT(refusal(coarse), !Catch::Contains("E/R"));
  std::string plain = kReady;
  plain.replace(plain.find("depth_attention: {heads: 1}, "), 29, "");
  CHECK_THAT(refusal(plain), Catch::Contains("model.depth_attention: found null"));
  CHECK_THAT(refusal("vocab_size: 100, width: 64, blocks: 1, attention: {heads: 2}, depth_attention: {heads: 1}"),
             Catch::Contains("--match needs experts"));
}
