#include "ops/muon.h"

#include <cmath>
#include <limits>

#include <torch/torch.h>

#include "support/catch.h"
#include "support/tolerance.h"

using namespace meristem;

namespace {

ops::MuonParameter matrix_of(at::IntArrayRef shape, std::uint64_t seed, std::vector<std::int64_t> packed_rows = {}) {
  torch::manual_seed(seed);
  return {torch::randn(shape), torch::randn(shape) * 0.01, torch::randn(shape) * 0.001, std::move(packed_rows)};
}

ops::MuonParameter copy_of(const ops::MuonParameter& p) { return {p.master.clone(), p.grad.clone(), p.momentum.clone(), p.packed_rows}; }

void update(const ops::MuonParameter& p, const ops::MuonSettings& settings, float grad_scale = 0.5f) {
  ops::muon_step({p}, torch::scalar_tensor(1e-2f), torch::scalar_tensor(grad_scale), settings);
}

// The rows that hold one packed matrix, with everything that belongs to them.
ops::MuonParameter rows_of(const ops::MuonParameter& p, std::int64_t from, std::int64_t rows) {
  return {p.master.narrow(-2, from, rows).clone(), p.grad.narrow(-2, from, rows).clone(), p.momentum.narrow(-2, from, rows).clone(), {}};
}

double after_steps(double singular_value, int steps) {
  for (int i = 0; i < steps; ++i) {
    const double cube = singular_value * singular_value * singular_value;
    singular_value = 3.4445 * singular_value - 4.7750 * cube + 2.0315 * cube * singular_value * singular_value;
  }
  return singular_value;
}

}  // namespace

TEST_CASE("Newton-Schulz keeps the singular vectors and sends the singular values through its polynomial, to near 1") {
  for (const auto& shape : std::vector<std::vector<std::int64_t>>{{48, 32}, {32, 48}, {64, 64}, {3, 17, 40}, {2, 2, 96, 24}}) {
    torch::manual_seed(3);
    const auto options = torch::dtype(torch::kDouble);
    const std::int64_t rank = std::min(shape[shape.size() - 1], shape[shape.size() - 2]);
    const auto [u, unused, vt] = at::linalg_svd(torch::randn(shape, options), /*full_matrices=*/false);
    const at::Tensor singular = torch::linspace(0.1, 1, rank, options), norm = singular.norm();
    const at::Tensor made = at::matmul(u * singular, vt);
    at::Tensor wanted = singular / norm;
    for (std::int64_t i = 0; i < rank; ++i) wanted[i] = after_steps(wanted[i].item<double>(), 5);
    CHECK(wanted.min().item<double>() > 0.6);
    CHECK(wanted.max().item<double>() < 1.3);
    const at::Tensor found = ops::orthogonalized(7 * made.to(torch::kFloat), 5);  // of any size
    CHECK(found.scalar_type() == torch::kBFloat16);
    CHECK(found.sizes() == made.sizes());
    const at::Tensor exact = at::matmul(u * wanted, vt);
    CHECK(((found.to(torch::kDouble) - exact).norm() / exact.norm()).item<double>() < 0.03);  // bf16: found 0.012 to 0.017
  }
  CHECK(ops::orthogonalized(torch::zeros({8, 4}), 5).abs().max().item<float>() == 0);
}

TEST_CASE("an update does the written formula") {
  for (const bool nesterov : {true, false}) {
    for (const auto scale : {ops::MuonScale::kMoonlight, ops::MuonScale::kOriginal}) {
      for (const std::int64_t rows : {16, 48}) {
        const ops::MuonSettings settings{0.9, 0.1, nesterov, 5, scale};
        const ops::MuonParameter before = matrix_of({rows, 24}, 5), p = copy_of(before);
        update(p, settings);
        const at::Tensor g = before.grad.to(torch::kDouble) * 0.5, m = before.momentum.to(torch::kDouble) * 0.9 + g * 0.1;
        const at::Tensor direction = ops::orthogonalized((nesterov ? g * 0.1 + m * 0.9 : m).to(torch::kFloat), 5).to(torch::kDouble);
        const double r = static_cast<double>(rows), c = 24;
        const double size = scale == ops::MuonScale::kOriginal ? std::sqrt(std::max(1.0, r / c)) : 0.2 * std::sqrt(std::max(r, c));
        const at::Tensor wanted = before.master.to(torch::kDouble) * (1 - 1e-2 * 0.1) - 1e-2 * size * direction;
        CHECK(test::max_error(p.momentum, m) < 1e-7);
        CHECK(test::max_error(p.master, wanted) < 1e-2 * size * 0.02);  // u in double rounds to other bf16 numbers now and then
        const at::Tensor moved = p.master.to(torch::kDouble) - before.master.to(torch::kDouble) * (1 - 1e-2 * 0.1);
        CHECK(moved.norm().item<double>() == Approx(1e-2 * size * direction.norm().item<double>()).epsilon(0.01));
      }
    }
  }
}

TEST_CASE("packed matrices are updated as if each were a parameter of its own") {
  const std::vector<std::int64_t> rows{32, 16, 16};
  const ops::MuonParameter before = matrix_of({64, 40}, 6, rows), packed = copy_of(before);
  update(packed, {});
  std::int64_t from = 0;
  for (const std::int64_t count : rows) {
    const ops::MuonParameter alone = rows_of(before, from, count);
    update(alone, {});
    CHECK(torch::equal(packed.master.narrow(0, from, count), alone.master));
    CHECK(torch::equal(packed.momentum.narrow(0, from, count), alone.momentum));
    from += count;
  }
  // And not as the one matrix that they make together.
  ops::MuonParameter whole = copy_of(before);
  whole.packed_rows.clear();
  update(whole, {});
  CHECK_FALSE(torch::equal(whole.master, packed.master));
  CHECK_THROWS_WITH(update(matrix_of({64, 40}, 6, {32, 16}), {}), Catch::Contains("packed matrices have 48 rows"));
}

TEST_CASE("experts are updated one by one, packed ones too") {
  const ops::MuonParameter before = matrix_of({5, 48, 20}, 7, {24, 24}), experts = copy_of(before);
  update(experts, {});
  for (std::int64_t e = 0; e < 5; ++e) {
    for (const std::int64_t from : {0, 24}) {
      const ops::MuonParameter one{before.master[e], before.grad[e], before.momentum[e], {}}, alone = rows_of(one, from, 24);
      update(alone, {});
      CHECK(torch::equal(experts.master[e].narrow(0, from, 24), alone.master));
      CHECK(torch::equal(experts.momentum[e].narrow(0, from, 24), alone.momentum));
    }
  }
}

TEST_CASE("an update under a scale that is not finite is refused, whatever the gradient") {
  for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    const ops::MuonParameter before = matrix_of({24, 16}, 8), p = copy_of(before);
    p.grad[3][5] = bad;
    before.momentum[0][0] = p.momentum[0][0] = -0.0f;
    update(p, {0.95, 0.1}, bad);
    CHECK(torch::equal(p.master, before.master));
    CHECK(torch::equal(p.momentum, before.momentum));
    CHECK(std::signbit(p.momentum[0][0].item<float>()));
  }
}
