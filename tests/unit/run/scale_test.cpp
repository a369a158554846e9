#include "run/scale.h"

#include "core/errors.h"
#include "support/catch.h"
#include "support/message_of.h"
#include "support/tiny_model.h"

using namespace meristem;

namespace {

RunConfig small_run(std::int64_t blocks = 4) {
  RunConfig config;
  config.model = test::tiny_config(blocks);
  config.data.sequence_length = 32;
  config.batch = {24 * 32, 8};
  config.schedule.steps = {100, false};
  config.schedule.warmup = Amount{1, false};
  config.precision = {Precision::kBf16, Precision::kBf16};
  return config;
}

Cluster measured_cluster(double flops_per_second) {
  Cluster cluster = cluster_of(Gpu::kH100);
  cluster.measured_flops = flops_per_second;
  cluster.links.network = 1e9;
  return cluster;
}

}  // namespace

TEST_CASE("a rank has its share of the batch, in micro-batches that divide it") {
  const RunConfig config = small_run();
  struct Case {
    std::int64_t ranks, sequences, micro;
  };
  for (const Case& c : {Case{1, 24, 8}, Case{2, 12, 6}, Case{3, 8, 8}, Case{4, 6, 6}, Case{8, 3, 3}, Case{24, 1, 1}}) {
    const RunConfig rank = config_of_rank(config, c.ranks);
    CHECK(rank.batch.tokens == c.sequences * 32);
    CHECK(rank.batch.micro_sequences == c.micro);
  }
  const auto refusal = [&](std::int64_t ranks) { return test::message_of<InputError>([&] { config_of_rank(config, ranks); }); };
  CHECK(refusal(5) == "batch.tokens: an update has 24 sequences, which 5 ranks cannot share evenly; 4 or 6 can");
  CHECK(refusal(48) == "batch.tokens: an update has 24 sequences, which 48 ranks cannot share evenly; 24 can");
  CHECK_FALSE(divides_batch(config, 0));
}

TEST_CASE("memory of a rank: moments and masters are shared out, the compute copy and gradients are not") {
  const ModelRegistry registry = builtin_registry();
  RunConfig config = small_run();
  const auto memory_on = [&](std::int64_t ranks) { return memory_of_rank(config, Timeline(config), registry, ranks).back(); };
  const StageCost cost = stage_costs(config, Timeline(config), registry).back();
  const auto parameters = static_cast<double>(cost.parameters.total);
  CHECK(memory_on(1).total() == cost.memory.total());
  CHECK(memory_on(4).weights == Approx(3 * parameters).epsilon(0.02));
  CHECK(memory_on(4).optimizer == Approx(cost.memory.optimizer / 4).epsilon(0.02));  // the flat buffers are padded
  CHECK(memory_on(4).gradients == 4 * parameters);
  CHECK(memory_on(24).activations < memory_on(4).activations);  // one sequence at a time instead of six

  CHECK(memory_on(4).update == 0);
  config.parallel.reduce = Wire::kBf16;
  CHECK(memory_on(4).update == 2 * parameters);
  CHECK(memory_on(1).update == 0);
  config.parallel.shard_optimizer = false;
  CHECK(memory_on(4).optimizer == cost.memory.optimizer);
  config.parallel.shard_optimizer = true;

  // However many ranks, a matrix of Muon's is whole.
  config.optimizer.kind = OptimizerKind::kMuon;
  config.optimizer.muon = MuonConfig{};
  CHECK(memory_on(24).optimizer >= 4 * 3 * 32 * 48 / 3);
}

TEST_CASE("one rank of a measured rate takes the run's FLOPs by that rate") {
  const ModelRegistry registry = builtin_registry();
  RunConfig config = small_run();
  config.growth = GrowthConfig{};
  config.growth->from_blocks = 2;
  config.growth->add_blocks = 2;
  for (const std::int64_t every : {0, 1}) {
    config.memory.activation_checkpointing.every = every;
    const Timeline timeline(config);
    RunScale scale(config, timeline, registry, measured_cluster(1e9));
    const RunForecast one = scale.on(1);
    CHECK(one.hours == Approx(total_flops(config, timeline, registry) / 1e9 / 3600));
    CHECK(one.efficiency == Approx(1));
    REQUIRE(one.spans.size() == timeline.spans().size());
    CHECK(one.spans.front().step() < one.spans.back().step());
    CHECK(one.update.step() == Approx(one.spans.back().step()));

    const RunForecast many = scale.on(8);
    CHECK(many.update.compute == Approx(one.update.compute / 8));
    CHECK(many.update.exposed > 0);
    CHECK(many.gpu_hours() > one.gpu_hours());
    CHECK(many.efficiency == Approx(one.gpu_hours() / many.gpu_hours()));
  }
}

TEST_CASE("the work of an update as it is run") {
  const ModelRegistry registry = builtin_registry();
  RunConfig config = small_run(4);
  config.model.depth_plan = "0, (1-2)x3, 3";
  const auto run_of = [&] {
    const Timeline timeline(config);
    return update_run(config, registry, timeline.stages().back());
  };
  UpdateRun run = run_of();
  REQUIRE(run.calls.size() == 8);
  CHECK(run.run_flops == Approx(run.train_flops));
  const auto use_of = [&](const std::string& name) {
    for (std::size_t i = 0; i < run.parameters.size(); ++i) {
      if (run.parameters[i].name == name) return run.uses[i];
    }
    FAIL(name << " is no parameter");
    return ParameterUse{};
  };
  const std::string first = run.parameters[1].name.substr(9), last = run.parameters[run.parameters.size() - 2].name.substr(9);
  // A looped block's gradients are complete when backward is in its first call, from its last parameter to its first.
  CHECK(use_of("blocks.1." + last).complete_in == 1);
  CHECK(use_of("blocks.1." + last).share < use_of("blocks.1." + first).share);
  CHECK(use_of("blocks.1." + first).share == 1);
  CHECK(use_of("blocks.3." + first).complete_in == 7);
  CHECK(use_of("blocks.3." + first).first_use == 7);
  CHECK(run.uses.front().complete_in == -1);  // the embedding, tied
  CHECK(run.uses.front().first_use == -1);
  CHECK(run.uses.back().complete_in == 8);  // the last norm
  CHECK(run.uses.back().first_use == 8);

  config.memory.activation_checkpointing.every = 2;
  run = run_of();
  CHECK(run.calls[0].backward == 3 * run.calls[0].forward);
  CHECK(run.calls[1].backward == 2 * run.calls[1].forward);
  CHECK(use_of("blocks.0." + last).share == 1);
  CHECK(use_of("blocks.1." + last).share < 1);

  // Truncated to the last repeat: the prelude and the repeats before have no backward, and the loop's blocks are complete in a later call.
  config.memory.activation_checkpointing.every = 0;
  config.model.loop.backprop_last = 1;
  run = run_of();
  CHECK(run.calls[0].backward == 0);
  CHECK(run.calls[4].backward == 0);
  CHECK(run.calls[5].backward > 0);
  CHECK(use_of("blocks.1." + first).complete_in == 5);
  CHECK(use_of("blocks.1." + first).first_use == 1);
  CHECK(use_of("blocks.0." + first).complete_in == -1);
}

TEST_CASE("the optimizer's time: AdamW's is shared out evenly, Muon's as far as its matrices go") {
  const ModelRegistry registry = builtin_registry();
  RunConfig config = small_run();
  Cluster cluster = cluster_of(Gpu::kH100);
  cluster.peak_flops = 1e12;
  cluster.links.network = 1e9;
  const auto optimizer_on = [&](std::int64_t ranks) {
    const Timeline timeline(config);
    return RunScale(config, timeline, registry, cluster).on(ranks).update.optimizer;
  };
  const auto parameters = static_cast<double>(stage_cost(config, registry, Timeline(config).stages().back()).parameters.total);
  CHECK(optimizer_on(1) == Approx(38 * parameters / (cluster.memory_rate * kMemoryUse)).epsilon(0.02));
  CHECK(optimizer_on(4) == Approx(optimizer_on(1) / 4).epsilon(0.02));
  config.parallel.shard_optimizer = false;
  CHECK(optimizer_on(4) == Approx(optimizer_on(1)).epsilon(0.02));

  config.parallel.shard_optimizer = true;
  config.optimizer.kind = OptimizerKind::kMuon;
  config.optimizer.muon = MuonConfig{};
  CHECK(optimizer_on(1) > 38 * parameters / (cluster.memory_rate * kMemoryUse));
  CHECK(optimizer_on(24) > optimizer_on(1) / 24);
  CHECK(optimizer_on(24) >= 0.9 * optimizer_on(12));  // 16 matrices
}
