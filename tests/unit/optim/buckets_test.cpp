#include "optim/buckets.h"

#include <torch/torch.h>

#include "optim/optimizer.h"
#include "support/catch.h"
#include "support/operator_calls.h"

namespace meristem {
namespace {

ParameterInfo info(const std::string& name, std::vector<std::int64_t> shape, Role role) {
  return {name, role, 0.02, torch::zeros(shape), {}};
}

std::vector<ParameterInfo> parameters() {
  std::vector<ParameterInfo> infos{info("embedding.weight", {100, 24}, Role::kEmbedding)};
  for (int block = 0; block < 4; ++block) {
    const std::string name = "blocks." + std::to_string(block) + ".";
    infos.push_back(info(name + "norm.weight", {24}, Role::kNorm));
    infos.push_back(info(name + "experts.weight", {5, 32, 24}, Role::kLinear));
    infos.push_back(info(name + "balance_bias", {5}, Role::kBalance));
    infos.push_back(info(name + "out.weight", {24, 72}, Role::kLinear));
  }
  infos.push_back(info("norm.weight", {24}, Role::kNorm));
  return infos;
}

OptimizerConfig of_kind(OptimizerKind kind) {
  OptimizerConfig config;
  config.kind = kind;
  if (kind == OptimizerKind::kMuon) config.muon = MuonConfig{};
  return config;
}

TEST_CASE("pieces cover the flat buffers once, at any number of ranks and size of bucket") {
  for (const OptimizerKind kind : {OptimizerKind::kAdamw, OptimizerKind::kMuon}) {
    for (const int ranks : {1, 2, 3, 7, 16}) {
      for (const double mb : {0.001, 0.01, 32.0}) {
        const FlatLayout layout = flat_layout(parameters(), of_kind(kind), ranks);
        std::vector<int> covered(static_cast<std::size_t>(layout.count));
        for (const FlatBucket& bucket : buckets_of(layout, ranks, mb)) {
          std::int64_t at = bucket.offset;
          for (const FlatPiece& piece : bucket.pieces) {
            CHECK(piece.offset == at);
            at += piece.count;
            for (std::int64_t i = 0; i < piece.count; ++i) ++covered[static_cast<std::size_t>(piece.offset + i)];
          }
          CHECK(at == bucket.offset + bucket.count);
        }
        CHECK(std::all_of(covered.begin(), covered.end(), [](int times) { return times == 1; }));
      }
    }
  }
}

TEST_CASE("AdamW's buckets are cut evenly, Muon's between whole matrices of equal load") {
  const int ranks = 4;
  const FlatLayout layout = flat_layout(parameters(), of_kind(OptimizerKind::kMuon), ranks);
  std::vector<double> load(ranks);
  for (const FlatBucket& bucket : buckets_of(layout, ranks, 0.004)) {
    if (bucket.rule == UpdateRule::kAdamw) {
      REQUIRE(bucket.pieces.size() == 4);
      for (int rank = 0; rank < ranks; ++rank) {
        const FlatPiece& piece = bucket.pieces[static_cast<std::size_t>(rank)];
        CHECK((piece.owner == rank && piece.count == bucket.count / 4 && piece.count % kFlatAlign == 0));
      }
      continue;
    }
    for (const FlatPiece& piece : bucket.pieces) {
      const auto holds = [&](const FlatEntry& entry) { return entry.offset <= piece.offset && piece.offset < entry.offset + entry.count; };
      const FlatEntry& entry = *std::find_if(layout.entries.begin(), layout.entries.end(), holds);
      const std::int64_t matrix = entry.shape.size() == 3 ? entry.shape[1] * entry.shape[2] : entry.count;
      CHECK((piece.offset - entry.offset) % matrix == 0);
      CHECK(piece.offset + piece.count >= entry.offset + matrix);
      load[static_cast<std::size_t>(piece.owner)] +=
          entry.shape.size() == 3 ? newton_schulz_work(piece.count / matrix, 32, 24) : newton_schulz_work(1, 24, 72);
    }
  }
  CHECK(*std::max_element(load.begin(), load.end()) < 1.3 * *std::min_element(load.begin(), load.end()));
}

TEST_CASE("buckets come in the order of backward, and wait for no balance bias") {
  const FlatLayout layout = flat_layout(parameters(), {}, 2);
  const std::vector<FlatBucket> buckets = buckets_of(layout, 2, 0.004);
  REQUIRE(buckets.size() > 3);
  for (std::size_t b = 1; b < buckets.size(); ++b) CHECK(buckets[b].offset < buckets[b - 1].offset);
  for (const FlatBucket& bucket : buckets) {
    CHECK_FALSE(bucket.entries.empty());
    for (const std::size_t entry : bucket.entries) CHECK(layout.entries[entry].name.find("bias") == std::string::npos);
  }
}

// Two owners' states side by side are the state of one who keeps all, and each owner updates its pieces as that one does.
TEST_CASE("sharded state and updates are those of one rank, piece by piece") {
  for (const OptimizerKind kind : {OptimizerKind::kAdamw, OptimizerKind::kMuon}) {
    for (const ops::Path path : {ops::Path::kFused, ops::Path::kLibrary, ops::Path::kReference}) {
      const OptimizerConfig config = of_kind(kind);
      constexpr int kRanks = 3;
      FlatParameters whole(parameters(), at::kBFloat16, config, kRanks);
      Optimizer keeps_all(whole, config, path);
      std::vector<std::unique_ptr<FlatParameters>> parts;
      std::vector<std::unique_ptr<Optimizer>> owners;
      for (int rank = 0; rank < kRanks; ++rank) {
        std::vector<FlatPiece> own;
        for (const FlatBucket& bucket : buckets_of(whole.layout(), kRanks, 0.004)) {
          for (const FlatPiece& piece : bucket.pieces) {
            if (piece.owner == rank) own.push_back(piece);
          }
        }
        parts.push_back(std::make_unique<FlatParameters>(parameters(), at::kBFloat16, config, kRanks, own));
        owners.push_back(std::make_unique<Optimizer>(*parts.back(), config, path, own));
      }
      torch::manual_seed(4);
      const at::Tensor lr = torch::full({}, 1e-2f), scale = torch::full({}, 0.5f);
      for (int step = 0; step < 3; ++step) {
        const at::Tensor gradient = torch::randn_like(whole.grad());
        whole.grad().copy_(gradient);
        keeps_all.step(lr, scale);
        for (int rank = 0; rank < kRanks; ++rank) {
          parts[static_cast<std::size_t>(rank)]->grad().copy_(gradient);
          const auto calls = test::calls_of([&] { owners[static_cast<std::size_t>(rank)]->step(lr, scale); });
          CHECK(calls.at("meristem::adamw") == 1);  // for the pieces of all buckets
        }
      }
      const NamedTensors state = keeps_all.state();
      for (const auto& [name, expected] : state) {
        at::Tensor sum = torch::zeros_like(expected);
        for (const auto& owner : owners) sum = sum + owner->kept(name);
        CHECK(torch::equal(sum, expected));
      }
      for (const FlatBucket& bucket : buckets_of(whole.layout(), kRanks, 0.004)) {
        for (const FlatPiece& piece : bucket.pieces) {
          const FlatParameters& owner = *parts[static_cast<std::size_t>(piece.owner)];
          CHECK(torch::equal(owner.master(piece.offset, piece.count), whole.master(piece.offset, piece.count)));
          CHECK(torch::equal(owner.half().narrow(0, piece.offset, piece.count), whole.half().narrow(0, piece.offset, piece.count)));
        }
      }
      std::int64_t kept = 0, elements = 0;
      for (const FlatEntry& entry : whole.entries()) {
        elements += entry.count;
        for (const auto& part : parts) {
          std::int64_t here = 0;
          part->each_kept(entry, [&](std::int64_t, const at::Tensor& masters) { here += masters.numel(); });
          if (entry.stays_fp32) CHECK(here == entry.count);
          if (!entry.stays_fp32 || part == parts.front()) kept += here;
        }
      }
      CHECK(kept == elements);  // each once
      for (const auto& part : parts) CHECK_THROWS_WITH(part->master(), Catch::Contains("keeps the masters of its own pieces alone"));
      // What all keep together loads into each of them, and into one who keeps all.
      for (const auto& owner : owners) {
        std::vector<at::Tensor> before;
        for (const std::string& name : owner->names()) before.push_back(owner->kept(name).clone());
        owner->load_state(state);
        for (std::size_t i = 0; i < before.size(); ++i) CHECK(torch::equal(owner->kept(owner->names()[i]), before[i]));
      }
    }
  }
}

}  // namespace
}  // namespace meristem
