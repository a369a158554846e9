// RMSNorm, RoPE, SwiGLU: our kernels against the reference in fp64, bounded by the reference in the kernel's own precision.
#include "ops/rms_norm.h"
#include "ops/rope.h"
#include "ops/swiglu.h"

#include <mutex>
#include <set>
#include <thread>

#include "ops/launch.h"
#include "unit/ops/check_fused.h"

using namespace meristem;
using ops::Path;
using test::check_fused;

TEST_CASE("our kernels' rows are shared out to as many threads as LibTorch has") {
  const int before = at::get_num_threads();
  at::set_num_threads(3);
  std::mutex mutex;
  std::set<std::thread::id> threads;
  ops::parallel_rows(300, [&](std::int64_t begin, std::int64_t end) {
    const std::lock_guard lock(mutex);
    CHECK(end - begin == 100);
    threads.insert(std::this_thread::get_id());
  });
  at::set_num_threads(before);
  CHECK(threads.size() == 3);
}

TEST_CASE("fused RMSNorm agrees with the reference") {
  torch::manual_seed(1);
  for (const auto& [rows, width] : {std::pair<int, int>{1, 8}, {5, 33}, {64, 256}, {7, 1000}}) {
    check_fused([](const auto& in, Path path) { return ops::rms_norm(in[0], in[1], 1e-5, path); },
                {torch::randn({rows, width}), torch::randn({width})});
  }
}

TEST_CASE("fused SwiGLU agrees with the reference, also far from zero") {
  torch::manual_seed(2);
  for (const double scale : {1.0, 30.0}) {
    check_fused([](const auto& in, Path path) { return ops::swiglu(in[0], path); }, {torch::randn({9, 2 * 45}) * scale});
  }
  const at::Tensor extreme = torch::tensor({{-1e4f, -100.f, 100.f, 1e4f, 1.f, 1.f, 1.f, 1.f}});
  const at::Tensor y = ops::swiglu(extreme, Path::kFused);
  CHECK(torch::equal(y, ops::swiglu(extreme, Path::kReference)));
}

TEST_CASE("fused RoPE agrees with the reference and leaves the values alone") {
  torch::manual_seed(3);
  const auto positions = torch::tensor({0, 1, 2, 0, 1, 63}, torch::kInt);
  for (const auto type : {torch::kFloat, torch::kDouble}) {
    const auto table = ops::make_rope_table(64, 16, 10000, torch::dtype(type));
    if (type == torch::kDouble) {
      // A rotation keeps lengths, and position 0 is the identity.
      const at::Tensor x = torch::randn({6, 3 * 16 + 5}, torch::kDouble);
      const at::Tensor y = ops::rope(x, 3, positions, table, Path::kReference);
      CHECK(test::max_error(y.narrow(1, 0, 48).view({6, 3, 16}).norm(2, -1), x.narrow(1, 0, 48).view({6, 3, 16}).norm(2, -1)) < 1e-12);
      CHECK(torch::equal(y[0], x[0]));
      CHECK(torch::equal(y.narrow(1, 48, 5), x.narrow(1, 48, 5)));
      continue;
    }
    const auto wide_table = ops::make_rope_table(64, 16, 10000, torch::dtype(torch::kDouble));
    check_fused([&](const auto& in,
                    Path path) { return ops::rope(in[0], 3, positions, in[0].scalar_type() == torch::kDouble ? wide_table : table, path); },
                {torch::randn({6, 3 * 16 + 5})});
  }
}

TEST_CASE("on the CPU the residual addition and its norm are those of the two operators, to the bit") {
  torch::manual_seed(6);
  for (const auto type : {torch::kFloat, torch::kBFloat16}) {
    for (const Path path : {Path::kReference, Path::kFused}) {
      const at::Tensor w = torch::randn({40}).requires_grad_();
      const at::Tensor x = torch::randn({7, 40}).to(type).requires_grad_(), update = torch::randn({7, 40}).to(type).requires_grad_();
      const at::Tensor d_sum = torch::randn({7, 40}).to(type), d_normed = torch::randn({7, 40}).to(type);
      const auto gradients = [&](const at::Tensor& sum, const at::Tensor& normed) {
        return torch::autograd::grad({sum, normed}, {x, update, w}, {d_sum, d_normed});
      };
      const ops::AddedNorm both = ops::add_rms_norm(x, update, w, 1e-5, path);
      const at::Tensor sum = x + update, normed = ops::rms_norm(sum, w, 1e-5, path);
      CHECK(torch::equal(both.sum, sum));
      CHECK(torch::equal(both.normed, normed));
      const auto found = gradients(both.sum, both.normed), expected = gradients(sum, normed);
      for (std::size_t i = 0; i < found.size(); ++i) CHECK(torch::equal(found[i], expected[i]));
    }
  }
  CHECK_THROWS_AS(ops::add_rms_norm(torch::randn({2, 4}), torch::randn({2, 5}), torch::randn({4}), 1e-5, Path::kFused), c10::Error);
}

TEST_CASE("QK norm before RoPE agrees with the reference, each gain on its own heads") {
  torch::manual_seed(7);
  const auto positions = torch::tensor({0, 1, 5, 0, 1, 63}, torch::kInt);
  const auto table_of = [](at::ScalarType type) {
    return ops::make_rope_table(64, 16, 10000, torch::dtype(type == torch::kDouble ? torch::kDouble : torch::kFloat));
  };
  const auto f = [&](const auto& in, Path path) {
    return ops::qk_norm_rope(in[0], {2, 1, in[1], in[2], 1e-5}, positions, table_of(in[0].scalar_type()), path, path);
  };
  const std::vector<at::Tensor> inputs{torch::randn({6, 3 * 16 + 5}), torch::randn({16}), torch::randn({16})};
  check_fused(f, inputs);
  // Position 0 turns nothing: what is left is each head's norm, and the columns behind the heads.
  const at::Tensor y = f(inputs, Path::kReference)[0], x = inputs[0][0];
  for (int head = 0; head < 3; ++head) {
    const at::Tensor expected = ops::rms_norm(x.narrow(0, head * 16, 16), inputs[head < 2 ? 1 : 2], 1e-5, Path::kReference);
    CHECK(test::max_error(y.narrow(0, head * 16, 16), expected) < 1e-6);
  }
  CHECK(torch::equal(y.narrow(0, 48, 5), x.narrow(0, 48, 5)));
}

TEST_CASE("QK norm over all heads runs over the query's columns together, and over the key's") {
  torch::manual_seed(8);
  const auto positions = torch::tensor({0, 1, 5, 0, 1, 63}, torch::kInt);
  const auto f = [&](const auto& in, Path path) {
    const auto wide = in[0].scalar_type() == torch::kDouble ? torch::kDouble : torch::kFloat;
    return ops::qk_norm_rope(in[0], {2, 1, in[1], in[2], 1e-5}, positions, ops::make_rope_table(64, 16, 10000, torch::dtype(wide)), path,
                             path);
  };
  const std::vector<at::Tensor> inputs{torch::randn({6, 3 * 16 + 5}), torch::randn({32}), torch::randn({16})};
  check_fused(f, inputs);
  const at::Tensor y = f(inputs, Path::kReference)[0], x = inputs[0][0];  // position 0 turns nothing
  CHECK(test::max_error(y.narrow(0, 0, 32), ops::rms_norm(x.narrow(0, 0, 32), inputs[1], 1e-5, Path::kReference)) < 1e-6);
  CHECK(test::max_error(y.narrow(0, 32, 16), ops::rms_norm(x.narrow(0, 32, 16), inputs[2], 1e-5, Path::kReference)) < 1e-6);
}

TEST_CASE("RoPE is relative: scores depend on the distance of positions alone") {
  torch::manual_seed(4);
  const auto table = ops::make_rope_table(200, 32, 10000, torch::dtype(torch::kDouble));
  const at::Tensor q = torch::randn({1, 32}, torch::kDouble), k = torch::randn({1, 32}, torch::kDouble);
  const auto score = [&](int at_q, int at_k) {
    return (ops::rope(q, 1, torch::tensor({at_q}, torch::kInt), table, Path::kReference) *
            ops::rope(k, 1, torch::tensor({at_k}, torch::kInt), table, Path::kReference))
        .sum()
        .item<double>();
  };
  CHECK(score(10, 3) == Approx(score(150, 143)).epsilon(1e-10));
  CHECK(std::abs(score(10, 3) - score(10, 4)) > 1e-6);
}

TEST_CASE("scaled RoPE keeps the frequencies that turn often, and divides those that hardly turn") {
  const std::int64_t head_dim = 64;
  const auto angles = [&](const std::optional<ops::RopeScaling>& scaling) {
    const auto table = ops::make_rope_table(2, head_dim, 10000, torch::dtype(torch::kDouble), scaling);
    return at::atan2(table.sin[1], table.cos[1]);  // of position 1: the frequencies
  };
  const at::Tensor plain = angles({}), scaled = angles(ops::RopeScaling{8, 1, 4, 1024});
  for (std::int64_t i = 0; i < head_dim / 2; ++i) {
    const double f = plain[i].item<double>(), turns = 1024 * f / (2 * M_PI), kept = (turns - 1) / 3;
    const double expected = turns >= 4 ? f : turns <= 1 ? f / 8 : (1 - kept) * f / 8 + kept * f;
    CHECK(scaled[i].item<double>() == Approx(expected).epsilon(1e-12));
  }
  CHECK(scaled[0].item<double>() == plain[0].item<double>());
  CHECK(scaled[31].item<double>() == Approx(plain[31].item<double>() / 8));
  const auto still = ops::no_rotation(ops::make_rope_table(3, 8, 10000, torch::dtype(torch::kFloat)));
  const at::Tensor x = torch::randn({3, 16}), at = torch::arange(3, torch::kInt);
  CHECK(torch::equal(ops::rope(x.clone(), 2, at, still, Path::kReference), x));
  CHECK(torch::equal(ops::rope(x.clone(), 2, at, still, Path::kFused), x));
}

TEST_CASE("gradients agree with finite differences in fp64") {
  torch::manual_seed(5);
  const at::Tensor weight = torch::randn({3, 6}, torch::kDouble);
  const auto difference = [&](const std::function<at::Tensor(const at::Tensor&)>& f, const at::Tensor& at, const at::Tensor& w) {
    at::Tensor x = at.clone().requires_grad_();
    (f(x) * w).sum().backward();
    double worst = 0;
    for (int64_t i = 0; i < at.numel(); ++i) {
      const double h = 1e-6;
      at::Tensor up = at.clone(), down = at.clone();
      up.view(-1)[i] += h;
      down.view(-1)[i] -= h;
      const double slope = ((f(up) * w).sum() - (f(down) * w).sum()).item<double>() / (2 * h);
      worst = std::max(worst, std::abs(slope - x.grad().view(-1)[i].item<double>()));
    }
    return worst;
  };
  const at::Tensor gain = torch::randn({6}, torch::kDouble), x = torch::randn({3, 6}, torch::kDouble);
  CHECK(difference([&](const at::Tensor& t) { return ops::rms_norm(t, gain, 1e-5, Path::kReference); }, x, weight) < 1e-7);
  CHECK(difference([&](const at::Tensor& t) { return ops::rms_norm(x, t, 1e-5, Path::kReference); }, gain, weight) < 1e-7);
  CHECK(difference([&](const at::Tensor& t) { return ops::swiglu(t, Path::kReference); }, torch::randn({3, 12}, torch::kDouble), weight) <
        1e-7);
}
