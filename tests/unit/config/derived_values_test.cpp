// Values that the config leaves to be derived keep the bounds of given ones, so that what was accepted can be written and read again.
#include "support/catch.h"
#include "unit/config/refused.h"

namespace meristem {
namespace {

TEST_CASE("a derived value keeps the bounds of a given one") {
  const std::string data = "data: {sequence_length: 64, sources: {text: {path: data/text}}}\nschedule: {steps: 100}\n";
  const auto model = [&](const std::string& keys) { return refused("model: {vocab_size: 512, " + keys + "}\n" + data); };
  CHECK(model("width: 65536, attention: {heads: 16}") == "accepted");
  CHECK(says(model("width: 65536, attention: {heads: 8}"),
             "run.yaml:1: model.attention.head_dim: comes to 8192; allowed: a whole number of at least 0, at most 4096"));
  CHECK(says(model("width: 12888, attention: {heads: 2}"), "model.attention.head_dim: comes to 6444"));
}

TEST_CASE("a run's tokens are counted in 64 bits") {
  const std::string long_run = "model: {vocab_size: 512}\ndata: {sequence_length: 64, sources: {text: {path: data/text}}}\n";
  CHECK(says(refused(long_run + "schedule: {steps: 1e15}\nbatch: {tokens: 64000}\n"),
             "run.yaml:3: schedule.steps: found 1000000000000000 updates of 64000 tokens"));
  CHECK(says(refused(long_run + "schedule: {steps: 9007199254740992}\nbatch: {tokens: 640000000000}\n"), "schedule.steps: found"));
  CHECK(refused(long_run + "schedule: {steps: \"1e18 tokens\"}\nbatch: {tokens: 64}\n") == "accepted");
}

TEST_CASE("what was resolved reads back equal") {
  for (const char* growth : {"growth: {from_blocks: 2, add_blocks: 1}\n", "growth: {operator: stack, from_blocks: 2}\n",
                             "growth: {operator: map, from_blocks: 2, maps: [[0, 1, 1, 0]]}\n",
                             "growth: {from_blocks: 2, add_blocks: 2, schedule: {kind: at_steps, at_steps: [50]}}\n"}) {
    INFO(growth);
    const std::string dumped = dump_config(parse_config(small_config(growth), "run.yaml"));
    CHECK(dump_config(parse_config(dumped, "again")) == dumped);
  }
}

TEST_CASE("one word for kernels is the path of every operator, and leaves the graph as it is") {
  const KernelsConfig kernels = parse_config(small_config("kernels: library\n"), "run.yaml").kernels;
  CHECK((kernels.attention == "library" && kernels.experts == "library" && kernels.graph == "auto"));
  CHECK(parse_config(small_config("kernels: {graph: on, adamw: fused}\n"), "run.yaml").kernels.graph == "on");
  CHECK(says(refused(small_config("kernels: off\n")), "kernels: found off; allowed: reference, library, fused, auto"));
  CHECK(says(refused(small_config("kernels: {graph: fused}\n")), "kernels.graph: found fused; allowed: off, on, auto"));
}

TEST_CASE("null stands for nothing only where nothing is the default") {
  CHECK(refused(small_config("growth: null\noptimizer: null\nlogging: {sample_every: null}\n")) == "accepted");
  CHECK(says(refused(small_config("batch: {tokens: null}\n")), "batch.tokens: found null; allowed: a whole number"));
  CHECK(says(refused(small_config("optimizer: {clip_norm: null}\n")), "optimizer.clip_norm: found null"));
  CHECK(says(refused(small_config("optimizer: {betas: null}\n")), "optimizer.betas: found null"));
  CHECK(says(refused(small_config("run: {deterministic: null}\n")), "run.deterministic: found null"));
  CHECK(says(refused(small_config("run: {name: null}\n")), "run.name: found null"));
}

}  // namespace
}  // namespace meristem
