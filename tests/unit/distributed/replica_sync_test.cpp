// Buckets and what travels in them, on parameters of no model: the step's tests have models.
#include "distributed/replica_sync.h"

#include <chrono>
#include <cmath>
#include <thread>

#include <torch/torch.h>

#include "support/catch.h"
#include "support/ranks_in_threads.h"

namespace meristem {
namespace {

using test::as_ranks;

// A stack of matrices, each used once, with a norm beside each; rank-dependent gradients.
struct Stack {
  // shared: its rank keeps the masters that are its own.
  explicit Stack(const OptimizerConfig& config, int ranks, at::ScalarType compute = at::kFloat, const ParallelConfig& parallel = {},
                 Ranks* shared = nullptr) {
    const auto add = [&](const std::string& name, std::vector<std::int64_t> shape, Role role) {
      at::Tensor tensor = torch::empty(shape, torch::dtype(stays_fp32(role) ? at::kFloat : compute)).fill_(0.5).requires_grad_();
      infos.push_back({name, role, 0.02, tensor, {}});
    };
    add("embedding.weight", {40, 16}, Role::kEmbedding);
    for (int block = 0; block < 3; ++block) {
      add("blocks." + std::to_string(block) + ".norm.weight", {16}, Role::kNorm);
      add("blocks." + std::to_string(block) + ".up.weight", {48, 16}, Role::kLinear);
      add("blocks." + std::to_string(block) + ".down.weight", {16, 48}, Role::kLinear);
    }
    add("norm.weight", {16}, Role::kNorm);
    add("injection.weight", {16, 32}, Role::kLinear);
    const auto own = shared ? owned_pieces(flat_layout(infos, config, ranks), parallel, *shared) : std::vector<FlatPiece>{};
    flat = std::make_unique<FlatParameters>(infos, compute, config, ranks, own);
  }

  // Gradients of a chain through all parameters, the first of them last in backward.
  void backward(double scale) {
    at::Tensor h = infos[0].tensor.to(at::kFloat).sum();
    for (std::size_t i = 1; i < infos.size(); ++i)
      h = 0.5 * h + (infos[i].tensor.to(at::kFloat) * (scale + 1.01 * static_cast<double>(i))).sum();
    h.backward();
  }

  std::vector<ParameterInfo> infos;
  std::unique_ptr<FlatParameters> flat;
};

OptimizerConfig muon() {
  OptimizerConfig config;
  config.kind = OptimizerKind::kMuon;
  config.muon = MuonConfig{};
  return config;
}

TEST_CASE("gradients become the sums over ranks, whole or on their owners") {
  for (const bool with_muon : {false, true}) {
    const OptimizerConfig optimizer = with_muon ? muon() : OptimizerConfig{};
    for (const bool sharded : {false, true}) {
      as_ranks(3, [&](std::shared_ptr<Ranks> ranks) {
        ParallelConfig config;
        config.shard_optimizer = sharded;
        config.bucket_mb = 0.003;
        Stack stack(optimizer, 3), alone(optimizer, 3);
        ReplicaSync sync(*stack.flat, *ranks, config);
        for (int other = 0; other < 3; ++other) alone.backward(other);
        sync.arm();
        stack.backward(ranks->rank());
        sync.finish_gradients();
        const at::Tensor found = stack.flat->grad(), expected = alone.flat->grad();
        const std::vector<FlatPiece> own = owned_pieces(stack.flat->layout(), config, *ranks);
        RANK_CHECK(own.empty() == !sharded);
        if (!sharded) RANK_CHECK(torch::allclose(found, expected, 1e-6, 1e-6));
        for (const FlatPiece& piece : own) {
          RANK_CHECK(
              torch::allclose(found.narrow(0, piece.offset, piece.count), expected.narrow(0, piece.offset, piece.count), 1e-6, 1e-6));
        }
        const at::Tensor squares = sync.own_squares(ops::Path::kLibrary).view({1});
        ranks->sum(squares).wait();
        RANK_CHECK(squares.item<double>() == Approx(expected.to(torch::kDouble).square().sum().item<double>()).epsilon(1e-5));
      });
    }
  }
}

TEST_CASE("a parameter without a gradient delays its bucket, and no other is lost") {
  as_ranks(2, [](std::shared_ptr<Ranks> ranks) {
    ParallelConfig config;
    config.bucket_mb = 0.003;
    config.shard_optimizer = false;
    Stack stack({}, 2);
    ReplicaSync sync(*stack.flat, *ranks, config);
    sync.arm();
    (stack.infos[3].tensor * 2).sum().backward();  // all others get none
    sync.finish_gradients();
    for (const FlatEntry& entry : stack.flat->entries()) {
      RANK_CHECK(torch::equal(stack.flat->view(stack.flat->grad(), entry), torch::full(entry.shape, entry.place == 3 ? 4.0f : 0.0f)));
    }
  });
}

TEST_CASE("updated weights come back from their owners to the bit, in bf16 with the fp32 ones among them") {
  for (const at::ScalarType compute : {at::kFloat, at::kBFloat16}) {
    for (const bool with_muon : {false, true}) {
      as_ranks(3, [&](std::shared_ptr<Ranks> ranks) {
        ParallelConfig config;
        config.bucket_mb = 0.003;
        Stack stack(with_muon ? muon() : OptimizerConfig{}, 3, compute, config, ranks.get());
        ReplicaSync sync(*stack.flat, *ranks, config);
        torch::NoGradGuard no_grad;
        for (const FlatPiece& piece : owned_pieces(stack.flat->layout(), config, *ranks)) {
          const at::Tensor values = torch::arange(piece.offset, piece.offset + piece.count, torch::kFloat) * 1.001;
          stack.flat->master(piece.offset, piece.count).copy_(values);
          if (compute != at::kFloat) stack.flat->half().narrow(0, piece.offset, piece.count).copy_(values);
        }
        sync.gather_weights();
        sync.await_weights(kFirstPart);
        sync.await_weights();
        for (const FlatEntry& entry : stack.flat->entries()) {
          const at::Tensor values = (torch::arange(entry.offset, entry.offset + entry.count, torch::kFloat) * 1.001).view(entry.shape);
          const at::Tensor& read = stack.infos[entry.place].tensor;
          RANK_CHECK(torch::equal(read, values.to(read.scalar_type())));
        }
        RANK_CHECK(sync.difference().empty());
      });
    }
  }
}

TEST_CASE("whoever waits for a part has its weights and those of all parts before it, the injection's among the first") {
  for (const std::int64_t part : {kFirstPart, std::int64_t{0}, std::int64_t{1}, std::int64_t{2}, kLastPart}) {
    as_ranks(2, [&](std::shared_ptr<Ranks> ranks) {
      ParallelConfig config;
      config.bucket_mb = 0.003;
      Stack stack({}, 2);
      ReplicaSync sync(*stack.flat, *ranks, config);
      torch::NoGradGuard no_grad;
      stack.flat->master().fill_(NAN);
      for (const FlatPiece& piece : owned_pieces(stack.flat->layout(), config, *ranks)) {
        stack.flat->master().narrow(0, piece.offset, piece.count).fill_(1);
      }
      // The other one is late: what is not waited for is not here.
      if (ranks->rank() == 1) std::this_thread::sleep_for(std::chrono::milliseconds(50));
      sync.gather_weights();
      sync.await_weights(part);
      bool here = true;
      for (const FlatEntry& entry : stack.flat->entries()) {
        if (entry.part <= part) here = here && stack.infos[entry.place].tensor.eq(1).all().item<bool>();
      }
      sync.await_weights();
      RANK_CHECK(here);
    });
  }
}

TEST_CASE("bf16 on the wire: sums to bf16's precision") {
  as_ranks(2, [](std::shared_ptr<Ranks> ranks) {
    ParallelConfig config;
    config.reduce = Wire::kBf16;
    config.shard_optimizer = false;
    Stack stack({}, 2), alone({}, 2);
    ReplicaSync sync(*stack.flat, *ranks, config);
    for (int other = 0; other < 2; ++other) alone.backward(other);
    sync.arm();
    stack.backward(ranks->rank());
    sync.finish_gradients();
    RANK_CHECK(!torch::equal(stack.flat->grad(), alone.flat->grad()));
    RANK_CHECK(torch::allclose(stack.flat->grad(), alone.flat->grad(), 1.0 / 128, 1e-6));
  });
}

TEST_CASE("replicas that came apart are found by the first tensor that differs, a swap of two values too") {
  as_ranks(3, [](std::shared_ptr<Ranks> ranks) {
    ParallelConfig config;
    Stack stack({}, 3);
    ReplicaSync sync(*stack.flat, *ranks, config);
    torch::NoGradGuard no_grad;
    stack.flat->master().copy_(torch::arange(stack.flat->master().numel(), torch::kFloat));
    RANK_CHECK(sync.difference().empty());
    const FlatEntry& entry = stack.flat->entries().at(4);
    const at::Tensor values = stack.flat->view(stack.flat->master(), entry).view({-1});
    if (ranks->rank() == 2) {
      const float first = values[0].item<float>();
      values[0].copy_(values[1]);
      values[1].fill_(first);
    }
    RANK_CHECK(sync.difference() == "rank 2 differs from rank 0 in " + entry.name);
  });
}

}  // namespace
}  // namespace meristem
