#include "checkpoint/train_state.h"

#include <cmath>
#include <limits>

#include "support/catch.h"
#include "support/sample_checkpoint.h"

using namespace meristem;
using namespace meristem::test;

namespace {

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  REQUIRE(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

}  // namespace

TEST_CASE("the training state reads back equal, doubles bit for bit") {
  const SampleCheckpoint sample(1000);
  const TrainState back = parse_train_state(train_state_json(sample.content.state), "state.json");
  CHECK(back == sample.content.state);
  CHECK(std::signbit(back.recent_losses[3]));
  CHECK(parse_train_state(train_state_json(TrainState{}), "state.json") == TrainState{});
  TrainState counted;
  counted.counts = {1ll << 60, 12, 1.0 / 3.0};
  CHECK(parse_train_state(train_state_json(counted), "state.json") == counted);
  counted.counts.reset();  // what an earlier version wrote
  CHECK(parse_train_state(train_state_json(counted), "state.json") == counted);
}

TEST_CASE("a wrong state names file and key path") {
  const SampleCheckpoint sample(1000);
  const std::string good = train_state_json(sample.content.state);
  const auto refusal = [](const std::string& text) { return message_of<DamagedError>([&] { parse_train_state(text, "dir/state.json"); }); };
  CHECK(contains(refusal(replaced(good, "\"step\": 1000", "\"step\": -1")), "dir/state.json: step: found -1"));
  CHECK(contains(refusal(replaced(good, "\"step\": 1000", "\"step\": \"x\"")), "dir/state.json: step: found string"));
  CHECK(contains(refusal(replaced(good, "\"step\": 1000", "\"stop\": 1000")), "unknown key 'stop'"));
  CHECK(contains(refusal(replaced(good, "\"tokens\"", "\"step\"")), "duplicate key 'step'"));
  CHECK(contains(refusal(replaced(good, "\"from_blocks\": 4", "\"from_blocks\": 3")), "growth_history[0].source_of[5]: found 3"));
  CHECK(contains(refusal(replaced(good, "\"to_blocks\": 8", "\"to_blocks\": 9")), "growth_history[0].source_of: found 8 entries for 9"));
  CHECK(contains(refusal(replaced(good, "\"blocks\": 8", "\"blocks\": 12")), "dir/state.json: blocks: found 12, but"));
  CHECK(contains(refusal(replaced(good, "\"real_tokens\": 0", "\"real_tokens\": -1")), "dir/state.json: counts.real_tokens: found -1"));
  CHECK(contains(refusal(replaced(good, "\"flops\": 0.0", "\"flops\": \"x\"")), "dir/state.json: counts.flops: found string"));
  CHECK(contains(refusal(replaced(good, "\"counter\"", "\"mt19937\"")), "rng.kind"));
  CHECK(contains(refusal(good.substr(0, good.size() / 2)), "dir/state.json: bad JSON at byte"));
  CHECK(contains(refusal("[]"), "found array, expected an object"));
}

TEST_CASE("a state from the future names both versions") {
  const std::string text = replaced(train_state_json(TrainState{}), "\"format_version\": 3", "\"format_version\": 9, \"new\": 0");
  const std::string message = message_of<InputError>([&] { parse_train_state(text, "state.json"); });
  CHECK(contains(message, "state.json: format_version: found 9, this program reads up to 3"));
}

TEST_CASE("what JSON cannot hold is not written") {
  TrainState state;
  state.recent_losses = {std::numeric_limits<double>::quiet_NaN()};
  CHECK(contains(message_of<InputError>([&] { train_state_json(state); }), "recent_losses"));
  state.recent_losses.clear();
  state.config_yaml = "\xff";
  CHECK(contains(message_of<InputError>([&] { train_state_json(state); }), "UTF-8"));
}
