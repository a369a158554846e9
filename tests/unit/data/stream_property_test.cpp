// Random runs, cut at random places: whatever the sources, phases, ramps, numbers of ranks and kills, one token stream comes out.
#include <algorithm>
#include <cmath>

#include "core/counter_rng.h"
#include "data/loader.h"
#include "support/catch.h"
#include "support/temp_dir.h"
#include "unit/data/sample_shards.h"

using namespace meristem;
using namespace meristem::test;

namespace {

constexpr std::int64_t kVocab = 100'000, kFirstId = 10'000;  // ids of source i count up from i * kFirstId

struct Draw {
  std::uint64_t key, count = 0;
  std::int64_t below(std::int64_t limit) { return static_cast<std::int64_t>(random_u64(key, count++) % static_cast<std::uint64_t>(limit)); }
  std::int64_t between(std::int64_t low, std::int64_t high) { return low + below(high - low + 1); }
};

// Sources of a few documents, some smaller than a sequence; phases with weights of 0 and ramps among them.
struct RandomRun {
  TempDir folder;
  std::vector<std::pair<std::string, std::filesystem::path>> sources;
  std::vector<std::int64_t> tokens;
  std::vector<PhaseConfig> phases;
  std::int64_t length, per_step, steps;
  Packing packing;
  std::vector<double> max_repeats;  // of each source, once limit() was called: just what the run reads

  explicit RandomRun(std::uint64_t seed, Packing rows = Packing::kConcat) : packing(rows) {
    Draw draw{stream_key(seed, "run")};
    length = draw.between(1, 20);
    per_step = 4 * draw.between(1, 3);
    const std::int64_t count = draw.between(1, 5);
    for (std::int64_t i = 0; i < count; ++i) {
      const std::string name = "s" + std::to_string(i);
      std::vector<std::int64_t> lengths(static_cast<std::size_t>(draw.between(1, 25)));
      for (auto& one : lengths) one = draw.between(1, 30);
      write_shard(folder / name, counting_documents(lengths, static_cast<std::int32_t>(i * kFirstId)), kVocab);
      tokens.push_back(std::accumulate(lengths.begin(), lengths.end(), std::int64_t{0}));
      sources.emplace_back(name, folder / name);
    }
    std::int64_t from = 0;
    const std::int64_t number = draw.between(1, 4);
    for (std::int64_t p = 0; p < number; ++p) {
      PhaseConfig one = phase("p" + std::to_string(p), static_cast<double>(from), {});
      for (std::int64_t i = 0; i < count; ++i) one.mixture.emplace_back("s" + std::to_string(i), draw.between(0, 9) / 10.0);
      one.mixture[static_cast<std::size_t>(draw.below(count))].second += 0.1;
      const std::int64_t updates = draw.between(3, 8);
      if (p > 0 && draw.below(3) > 0) one.ramp_steps = draw.between(1, updates);
      phases.push_back(one);
      from += updates;
    }
    steps = from;
  }
  std::unique_ptr<Loader> loader(int rank = 0, int world = 1) const {
    DataConfig config = data_config(length, true, sources);
    config.packing = packing;
    for (std::size_t i = 0; i < max_repeats.size(); ++i) config.sources[i].second.max_repeats = max_repeats[i];
    return std::make_unique<Loader>(config, phases, per_step, kVocab, 3, rank, world);
  }
  void limit() {
    const auto all = loader();
    all->next(steps * per_step);
    for (const SourceUse& use : all->use())
      max_repeats.push_back(use.epochs * (1 + 1e-12));  // tokens / size, rounded, times size may be less
  }
};

struct Row {
  std::int32_t source;
  std::vector<std::int32_t> inputs, targets, positions;
  bool operator==(const Row&) const = default;
};

void take(Loader& loader, std::int64_t sequences, std::vector<Row>& rows) {
  for (std::int64_t i = 0; i < sequences; ++i) {
    const HostBatch one = loader.next(1);
    rows.push_back({one.source[0], one.inputs, one.targets, one.positions});
  }
}

std::vector<Row> whole_stream(const RandomRun& run) {
  std::vector<Row> rows;
  take(*run.loader(), run.steps * run.per_step, rows);
  return rows;
}

// `updates` from `position` on by `world` loaders in turn, as ranks share them. Returns where they all stand.
LoaderPosition take_as_ranks(const RandomRun& run, int world, const LoaderPosition& position, std::int64_t updates,
                             std::vector<Row>& rows) {
  std::vector<std::unique_ptr<Loader>> ranks;
  for (int rank = 0; rank < world; ++rank) {
    ranks.push_back(run.loader(rank, world));
    ranks.back()->seek(position);
  }
  for (std::int64_t update = 0; update < updates; ++update) {
    for (const auto& rank : ranks) take(*rank, run.per_step / world, rows);
  }
  for (const auto& rank : ranks) REQUIRE(rank->position() == ranks[0]->position());
  return ranks[0]->position();
}

}  // namespace

// Sources of max_repeats that last to the run's last update, and no further, are refused for a longer run at the same step wherever it is
// resumed.
void check_limits(const RandomRun& run, Loader& loader) {
  static const auto refusal = [](const Loader& at, std::int64_t steps) { return message_of<InputError>([&] { at.check_supply(steps); }); };
  REQUIRE_NOTHROW(loader.check_supply(run.steps));
  const std::string expected = refusal(*run.loader(), 3 * run.steps);
  REQUIRE(contains(expected, "runs out at step"));
  REQUIRE(refusal(loader, 3 * run.steps) == expected);
}

TEST_CASE("runs killed anywhere and resumed on 1, 2 or 4 ranks read the undisturbed run's tokens", "[property]") {
  for (std::uint64_t seed = 0; seed < 45; ++seed) {
    RandomRun run(seed, seed % 3 == 2 ? Packing::kBestFit : Packing::kConcat);
    const bool limited = seed % 2 == 1;
    if (limited) run.limit();
    const std::vector<Row> expected = whole_stream(run);
    Draw draw{stream_key(seed, "cuts")};
    std::vector<Row> rows;
    LoaderPosition saved = run.loader()->position();
    while (saved.step < run.steps) {
      INFO("seed " << seed << ", step " << saved.step << ", in_step " << saved.in_step);
      rows.resize(static_cast<std::size_t>(saved.sequence));  // what came after the checkpoint is lost
      if (saved.in_step == 0 && draw.below(2) == 0) {
        const int world = 2 << draw.below(2);
        const std::int64_t left = run.steps - saved.step, updates = draw.between(1, std::min<std::int64_t>(left, 4));
        const LoaderPosition reached = take_as_ranks(run, world, saved, updates, rows);
        saved = LoaderPosition::from_json(reached.to_json());
      } else {  // one rank stops anywhere, inside an update too, and has gone on after its checkpoint
        const auto loader = run.loader();
        loader->seek(saved);
        if (limited) check_limits(run, *loader);
        const std::int64_t left = run.steps * run.per_step - saved.sequence, taken = std::min(draw.between(1, 3 * run.per_step), left);
        take(*loader, taken, rows);
        saved = LoaderPosition::from_json(loader->position().to_json());
        take(*loader, std::min(draw.below(7), left - taken), rows);
      }
    }
    rows.resize(expected.size());
    REQUIRE(rows == expected);
  }
}

TEST_CASE("every token of every source is an input exactly once an epoch, across phases and ramps", "[property]") {
  for (std::uint64_t seed = 0; seed < 30; ++seed) {
    const RandomRun run(seed);
    std::vector<std::vector<std::int32_t>> ids(run.sources.size());
    for (const Row& row : whole_stream(run)) {
      auto& own = ids[static_cast<std::size_t>(row.source)];
      for (const std::int32_t id : row.inputs) own.push_back(id - row.source * static_cast<std::int32_t>(kFirstId));
    }
    for (std::size_t i = 0; i < ids.size(); ++i) {
      const auto tokens = static_cast<std::size_t>(run.tokens[i]);
      std::vector<std::int32_t> once(tokens);
      std::iota(once.begin(), once.end(), 0);
      for (std::size_t at = 0; at < ids[i].size(); at += tokens) {
        const std::size_t end = std::min(at + tokens, ids[i].size());
        std::vector<std::int32_t> epoch(ids[i].begin() + static_cast<std::ptrdiff_t>(at),
                                        ids[i].begin() + static_cast<std::ptrdiff_t>(end));
        std::sort(epoch.begin(), epoch.end());
        if (end - at == tokens) REQUIRE(epoch == once);
        REQUIRE(std::adjacent_find(epoch.begin(), epoch.end()) == epoch.end());  // the last one may be unfinished
      }
    }
  }
}

namespace {

// Shares of update `step + 1` in floating point, from the config alone.
std::vector<double> shares_of(const std::vector<PhaseConfig>& phases, std::size_t phase, std::int64_t step) {
  std::vector<double> shares;
  double sum = 0;
  for (const auto& [name, weight] : phases[phase].mixture) sum += weight;
  for (const auto& [name, weight] : phases[phase].mixture) shares.push_back(weight / sum);
  const auto update = static_cast<double>(step) - phases[phase].from_step.value + 1;
  const auto ramp = static_cast<double>(phases[phase].ramp_steps);
  if (update > ramp) return shares;
  const std::vector<double> before = shares_of(phases, phase - 1, std::int64_t{1} << 40);
  for (std::size_t i = 0; i < shares.size(); ++i) shares[i] = before[i] + (shares[i] - before[i]) * update / (ramp + 1);
  return shares;
}

}  // namespace

// Far inside binomial bounds: with k sources a source is never a whole sequence ahead of its share, nor more than 1/2 + ... + 1/k
// sequences behind (below one sequence for k <= 3). Holds for shares that change on the way, too: see docs/cooldown.md.
TEST_CASE("a mixture's counts stay within a sequence or so of their shares, in every phase and ramp", "[property]") {
  constexpr double kRounding = 1e-6;
  double furthest_ahead = 0, furthest_behind = 0;
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    Draw draw{stream_key(seed, "mixture")};
    const std::int64_t count = draw.between(2, 8), per_step = draw.between(1, 9);
    std::vector<SampledSource> sources;
    for (std::int64_t i = 0; i < count; ++i) sources.push_back({"s" + std::to_string(i), 1000, 0});
    std::vector<PhaseConfig> phases;
    for (int p = 0; p < 3; ++p) {
      phases.push_back(phase("p" + std::to_string(p), 40 * p, {}));
      for (const auto& source : sources) phases.back().mixture.emplace_back(source.name, static_cast<double>(draw.between(0, 1000)) / 1000);
      phases.back().mixture[0].second += 0.001;
      if (p > 0) phases.back().ramp_steps = draw.between(0, 40);
    }
    double most_behind = 0;
    for (std::int64_t k = 2; k <= count; ++k) most_behind += 1.0 / static_cast<double>(k);
    SequenceSampler sampler(sources, phases, 10, per_step);
    std::vector<double> lag;
    for (std::int64_t step = 0; step < 120; ++step) {
      if (step % 40 == 0) lag.assign(sources.size(), 0.0);
      const std::vector<double> shares = shares_of(phases, static_cast<std::size_t>(step / 40), step);
      for (std::int64_t j = 0; j < per_step; ++j) {
        for (std::size_t i = 0; i < lag.size(); ++i) lag[i] += shares[i];
        const std::size_t source = sampler.next().source;
        REQUIRE(lag[source] >= *std::max_element(lag.begin(), lag.end()) - kRounding);
        REQUIRE(shares[source] > 0);
        lag[source] -= 1;
        for (const double one : lag) {
          REQUIRE(one > -1);
          REQUIRE(one <= most_behind + kRounding);
          furthest_ahead = std::min(furthest_ahead, one);
          furthest_behind = std::max(furthest_behind, one);
        }
      }
    }
  }
  CHECK(furthest_ahead < -0.8);  // the runs went near the bounds
  CHECK(furthest_behind > 0.7);
}
