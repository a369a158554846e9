// A setting that nothing reads is refused, with its own key and the one that makes it idle.
#include "support/catch.h"
#include "unit/config/refused.h"

namespace meristem {
namespace {

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

TEST_CASE("settings of other sections that nothing reads are refused") {
  CHECK(says(refused(small_config("checkpoint: {every: 0, keep_every: 10}\n")),
             "checkpoint.keep_every: has no effect with checkpoint.every: 0"));
  CHECK(says(refused(small_config("logging: {sample_every: 10, sample_tokens: 0}\n")),
             "logging.sample_every: has no effect with logging.sample_tokens: 0"));
  CHECK(says(refused(small_config("optimizer: {weight_decay: 0, decay_embeddings: true}\n")),
             "optimizer.decay_embeddings: has no effect with optimizer.weight_decay: 0"));
  CHECK(refused(small_config("checkpoint: {every: 0}\nlogging: {sample_tokens: 0}\noptimizer: {weight_decay: 0}\n")) == "accepted");
}

}  // namespace
}  // namespace meristem
