#include "ops/few_rows.h"

#include "check_fused.h"
#include "support/catch.h"
#include "support/tolerance.h"

using namespace meristem;

TEST_CASE("products of a few rows: the definition, for every size and kernel, and a row's bits whatever is beside it") {
  const torch::NoGradGuard no_grad;
  const ops::DecodingRows decoded;
  torch::manual_seed(8);
  for (const auto& [depth, out] :
       std::vector<std::pair<std::int64_t, std::int64_t>>{{96, 160}, {1, 1}, {33, 7}, {200, 130}, {7, 3}, {576, 515}}) {
    const at::Tensor x = torch::randn({ops::kFewRows, depth}), weight = torch::randn({out, depth}), bias = torch::randn({out});
    for (const auto& [type, tolerance] : {std::pair{at::kFloat, 1e-6}, std::pair{at::kBFloat16, 1e-2}}) {
      const at::Tensor typed_x = x.to(type), typed_weight = weight.to(type), typed_bias = bias.to(type);
      const at::Tensor truth = at::matmul(typed_x.to(at::kDouble), typed_weight.to(at::kDouble).t());
      const double scale = std::sqrt(static_cast<double>(depth)) + truth.abs().max().item<double>();
      test::for_each_cpu_level([&] {
        const at::Tensor all = ops::multiply_few_rows(typed_x, typed_weight);
        INFO(depth << " x " << out << " " << type);
        CHECK(test::max_error(all, truth) < tolerance * scale);
        for (const std::int64_t rows : {1, 2, 3, 4, 5, 8, 31}) {
          REQUIRE(ops::are_few_rows(typed_x.narrow(0, 0, rows), typed_weight));
          CHECK(torch::equal(ops::multiply_few_rows(typed_x.narrow(0, 1, rows), typed_weight), all.narrow(0, 1, rows)));
        }
        CHECK(torch::equal(ops::multiply_few_rows(typed_x, typed_weight, typed_bias), all + typed_bias));
        const at::Tensor wide = torch::randn({ops::kFewRows, depth + 3}).to(type);  // rows with gaps
        CHECK(torch::equal(ops::multiply_few_rows(wide.narrow(1, 2, depth), typed_weight),
                           ops::multiply_few_rows(wide.narrow(1, 2, depth).contiguous(), typed_weight)));
      });
    }
  }
}

TEST_CASE("products of a few rows give the same bits with any number of threads") {
  const torch::NoGradGuard no_grad;
  torch::manual_seed(9);
  const at::Tensor x = torch::randn({3, 512}), weight = torch::randn({1001, 512}), y = ops::multiply_few_rows(x, weight);
  const int threads = at::get_num_threads();
  for (const int count : {1, 3, threads}) {
    at::set_num_threads(count);
    CHECK(torch::equal(ops::multiply_few_rows(x, weight), y));
  }
}

TEST_CASE("many rows, gradients, other types and weights with gaps are not for this kernel") {
  const at::Tensor weight = torch::randn({5, 4});
  const torch::NoGradGuard no_grad;
  CHECK_FALSE(ops::are_few_rows(torch::randn({2, 4}), weight));
  const ops::DecodingRows decoded;
  {
    const torch::AutoGradMode on(true);
    CHECK_FALSE(ops::are_few_rows(torch::randn({2, 4}), weight));
  }
  CHECK(ops::are_few_rows(torch::randn({2, 4}), weight));
  CHECK_FALSE(ops::are_few_rows(torch::randn({ops::kFewRows + 1, 4}), weight));
  CHECK_FALSE(ops::are_few_rows(torch::randn({2, 4}, torch::kDouble), weight.to(torch::kDouble)));
  CHECK_FALSE(ops::are_few_rows(torch::randn({2, 4}, torch::kBFloat16), weight));
  CHECK_FALSE(ops::are_few_rows(torch::randn({2, 4}), torch::randn({4, 5}).t()));
}
