// Positions as text, damaged text, and positions under another config (branches).
#include "data/sequence_sampler.h"
#include "support/catch.h"
#include "unit/data/sample_shards.h"

using namespace meristem;
using namespace meristem::test;

namespace {

const std::vector<SampledSource> kSources{{"a", 1000, 0}, {"b", 500, 0}};

SequenceSampler sampler(const std::vector<PhaseConfig>& phases = {}, std::int64_t length = 10, std::int64_t per_step = 4,
                        const std::vector<SampledSource>& sources = kSources) {
  return SequenceSampler(sources, phases, length, per_step);
}

std::string refusal(const std::string& text) {
  return message_of<DamagedError>([&] { LoaderPosition::from_json(text); });
}

}  // namespace

TEST_CASE("a position reads back from its text") {
  LoaderPosition position{40, 9, 4, 3, {{"a", 300}, {"b \"ö\"", std::int64_t{1} << 60}}, {{"a", 700'000'000, 7}, {"b", 0, 0}}};
  CHECK(LoaderPosition::from_json(position.to_json()) == position);
  CHECK(LoaderPosition::from_json(LoaderPosition{}.to_json()) == LoaderPosition{});
}

TEST_CASE("damaged position text is refused with the key") {
  const std::string good = LoaderPosition{40, 9, 4, 3, {{"a", 300}}, {{"a", 1, 7}}}.to_json();
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    const std::size_t at = text.find(from);
    REQUIRE(at != std::string::npos);
    return text.replace(at, from.size(), to);
  };
  CHECK_NOTHROW(LoaderPosition::from_json(good));
  CHECK(contains(refusal(""), "loader position: bad JSON at byte 0"));
  CHECK(contains(refusal(good.substr(0, good.size() / 2)), "loader position: bad JSON at byte"));
  CHECK(contains(refusal("[]"), "loader position: found array"));
  CHECK(contains(refusal(with("\"step\":9,", "")), "key 'step' is missing"));
  CHECK(contains(refusal(with("\"step\":9", "\"step\":9,\"stop\":1")), "unknown key 'stop'"));
  CHECK(contains(refusal(with("\"step\":9", "\"step\":9,\"step\":9")), "duplicate key 'step'"));
  CHECK(contains(refusal(with("\"sequence\":40", "\"sequence\":-1")), "sequence: found -1"));
  CHECK(contains(refusal(with("\"sequence\":40", "\"sequence\":4e1")), "sequence: found number"));
  CHECK(contains(refusal(with("\"in_step\":4", "\"in_step\":41")), "in_step: found 41"));
  CHECK(contains(refusal(with("\"phase_step\":3", "\"phase_step\":10")), "phase_step: found 10"));
  CHECK(contains(refusal(with("\"tokens\":300", "\"tokens\":9223372036854775807")), "sources[0].tokens: found 9223372036854775807"));
  CHECK(contains(refusal(with("\"tokens\":300}", "\"tokens\":300},{\"name\":\"a\",\"tokens\":1}")), "stands here twice"));
  CHECK(contains(refusal(with("\"sequences\":7", "\"sequences\":-7")), "drawn[0].sequences: found -7"));
  CHECK(contains(refusal(with("\"name\":\"a\"", "\"name\":1")), "sources[0].name: found number"));
}

TEST_CASE("counts that the mixture cannot have drawn are damage") {
  SequenceSampler one = sampler();
  for (int i = 0; i < 10; ++i) one.next();
  LoaderPosition position = one.position();
  position.drawn[0].sequences = 9;
  CHECK(contains(message_of<DamagedError>([&] { one.seek(position); }), "loader position: drawn"));
}

TEST_CASE("skipping to a step is the same as drawing up to it") {
  const std::vector<PhaseConfig> phases{phase("x", 0, {{"a", 0.7}, {"b", 0.3}}), phase("y", 7, {{"b", 1}}),
                                        phase("z", 19, {{"a", 0.1}, {"b", 0.2}})};
  for (const std::int64_t before : {0, 3, 28, 50}) {
    SequenceSampler drawn = sampler(phases), skipped = sampler(phases);
    for (std::int64_t i = 0; i < before; ++i) drawn.next(), skipped.next();
    skipped.skip_to(40);
    while (drawn.position().step < 40) drawn.next();
    CHECK(skipped.position() == drawn.position());
    CHECK(skipped.use()[1].tokens == drawn.use()[1].tokens);
  }
}

TEST_CASE("a branch keeps the cursors of known sources; the mixture counts anew where its weights changed") {
  SequenceSampler old = sampler();
  for (int i = 0; i < 20; ++i) old.next();
  const LoaderPosition position = old.position();
  REQUIRE(position.step == 5);
  // Another order of sources, a new one, other weights, another batch and sequence length.
  SequenceSampler branch = sampler({phase("x", 0, {{"c", 1}, {"b", 1}})}, 16, 10, {{"c", 100, 0}, {"b", 500, 0}, {"a", 1000, 0}});
  branch.seek(position);
  const SequenceOrigin first = branch.next(), second = branch.next();
  CHECK((first.source == 0 && first.offset == 0));
  CHECK((second.source == 1 && second.offset == 100));
  CHECK(branch.use()[2].tokens == 100);
  // The branch itself resumes exactly.
  for (int i = 0; i < 13; ++i) branch.next();
  SequenceSampler resumed = sampler({phase("x", 0, {{"c", 1}, {"b", 1}})}, 16, 10, {{"c", 100, 0}, {"b", 500, 0}, {"a", 1000, 0}});
  resumed.seek(LoaderPosition::from_json(branch.position().to_json()));
  for (int i = 0; i < 40; ++i) {
    const SequenceOrigin a = branch.next(), b = resumed.next();
    REQUIRE((a.source == b.source && a.offset == b.offset));
  }
}

TEST_CASE("a position inside an update fits no smaller update") {
  SequenceSampler old = sampler();
  for (int i = 0; i < 3; ++i) old.next();
  SequenceSampler smaller = sampler({}, 10, 3);
  CHECK(contains(message_of<InputError>([&] { smaller.seek(old.position()); }), "in_step: 3 sequences"));
}

TEST_CASE("a ramp moves the weights update by update, and ends at the phase's own") {
  const std::vector<PhaseConfig> phases = [] {
    std::vector<PhaseConfig> two{phase("x", 0, {{"a", 3}, {"b", 1}}), phase("y", 10, {{"b", 2}})};
    two[1].ramp_steps = 4;
    return two;
  }();
  SequenceSampler one = sampler(phases, 10, 20);
  std::vector<int> of_b;  // sequences of b in each update
  for (int step = 0; step < 20; ++step) {
    of_b.push_back(0);
    for (int j = 0; j < 20; ++j) of_b.back() += one.next().source == 1;
  }
  // A quarter before; then 0.25 + 0.75 r/5 of 20 in update r; all of them from the fifth on.
  CHECK(of_b == std::vector<int>{5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 8, 11, 14, 17, 20, 20, 20, 20, 20, 20});
  const auto drawn = one.position().drawn;
  CHECK((drawn[0].sequences == 30 && drawn[1].sequences == 170));
  CHECK(one.position().phase_step == 10);
}

TEST_CASE("skipping through a ramp is the same as drawing, and a ramp goes on from the text of a position") {
  std::vector<PhaseConfig> phases{phase("x", 0, {{"a", 0.7}, {"b", 0.3}}), phase("y", 7, {{"a", 0.2}, {"b", 0.9}}),
                                  phase("z", 19, {{"a", 0.1}, {"b", 0.2}})};
  phases[1].ramp_steps = 9;
  phases[2].ramp_steps = 1;
  for (const std::int64_t before : {0, 27, 28, 29, 50, 66, 80}) {
    SequenceSampler drawn = sampler(phases), skipped = sampler(phases), resumed = sampler(phases);
    for (std::int64_t i = 0; i < before; ++i) drawn.next(), skipped.next();
    resumed.seek(LoaderPosition::from_json(drawn.position().to_json()));
    skipped.skip_to(40);
    while (drawn.position().step < 40) {
      const SequenceOrigin a = drawn.next(), b = resumed.next();
      REQUIRE((a.source == b.source && a.offset == b.offset));
    }
    CHECK(skipped.position() == drawn.position());
    CHECK(resumed.position() == drawn.position());
  }
  SequenceSampler one = sampler(phases);
  one.skip_to(9);
  LoaderPosition position = one.position();
  *position.drawn[0].lag += 1;
  CHECK(contains(message_of<DamagedError>([&] { one.seek(position); }), "loader position: drawn"));
}

TEST_CASE("ramps that have nothing to ramp from, or no room, are refused") {
  std::vector<PhaseConfig> phases{phase("x", 0, {{"a", 1}}), phase("y", 7, {{"b", 1}}), phase("z", 19, {{"a", 1}})};
  phases[0].ramp_steps = 1;
  CHECK(contains(message_of<InputError>([&] { sampler(phases); }), "phases.x.ramp_steps: the first phase"));
  phases[0].ramp_steps = 0;
  phases[1].ramp_steps = 12;
  CHECK_NOTHROW(sampler(phases));
  phases[1].ramp_steps = 13;
  CHECK(contains(message_of<InputError>([&] { sampler(phases); }), "phases.z.from_step: found 19, inside the ramp"));
}
