#include "ops/linear.h"

#include <torch/torch.h>

#include "ops/cross_entropy.h"
#include "ops/experts.h"
#include "ops/launch.h"
#include "ops/products.h"
#include "unit/ops/check_fused.h"

using namespace meristem;
using test::Path;

namespace {

at::Tensor random(at::IntArrayRef shape, at::ScalarType type) { return torch::randn(shape).to(torch::kBFloat16).to(type); }

// Bounded by what rounding to `type` of a product of so many terms may give.
void check_near(const at::Tensor& x, const at::Tensor& exact, at::ScalarType type) {
  const double error = (x.to(torch::kDouble) - exact).abs().max().item<double>(), size = exact.abs().max().item<double>();
  CHECK(error <= (type == at::kFloat ? 2e-6 : 5e-3) * (1 + size));
}

}  // namespace

TEST_CASE("products of whole matrices are those of fp64 at any size: tiles, blocks and long depths") {
  torch::manual_seed(1);
  for (const auto& [rows, in, out] : std::vector<std::array<std::int64_t, 3>>{
           {1, 2, 2}, {32, 96, 288}, {77, 30, 46}, {130, 258, 34}, {65, 2200, 290}, {2500, 18, 66}, {33, 64, 600}}) {
    for (const auto type : {at::kFloat, at::kBFloat16}) {
      const at::Tensor x = random({rows, in}, type), w = random({out, in}, type), dy = random({rows, out}, type);
      const at::Tensor wide_x = x.to(torch::kDouble), wide_w = w.to(torch::kDouble), wide_dy = dy.to(torch::kDouble);
      test::for_each_cpu_level([&] {
        INFO(rows << " x " << in << " x " << out << " " << c10::toString(type));
        const at::Tensor y = torch::empty({rows, out}, type), dx = torch::empty({rows, in}, type), dw = torch::empty({out, in}, type),
                         sum = torch::ones({out, in});
        ops::multiply_rows(x, w.unsqueeze(0), {rows}, y);
        ops::multiply_rows_back(dy, w.unsqueeze(0), {rows}, dx);
        check_near(y, wide_x.mm(wide_w.t()), type);
        check_near(dx, wide_dy.mm(wide_w), type);
        const at::Tensor exact = wide_dy.t().mm(wide_x);
        ops::add_outer_products(dy, x, {rows}, sum.unsqueeze(0));  // on top of what is there, in fp32 whatever the type
        check_near(sum, exact + 1, at::kFloat);
        if (type == at::kFloat) return;
        ops::add_outer_products(dy, x, {rows}, dw.unsqueeze(0));
        check_near(dw, exact, type);
      });
    }
  }
}

TEST_CASE("rows of a wider matrix, and strided weights, multiply as copies of them do") {
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    const at::Tensor wide = random({40, 70}, type), x = wide.narrow(1, 2, 64), w = random({24, 100}, type).narrow(1, 4, 64);
    test::for_each_cpu_level([&] {
      const at::Tensor y = torch::empty({40, 24}, type), of_copies = torch::empty_like(y);
      ops::multiply_rows(x, w.unsqueeze(0), {40}, y);
      ops::multiply_rows(x.contiguous(), w.contiguous().unsqueeze(0), {40}, of_copies);
      CHECK(torch::equal(y, of_copies));
    });
  }
}

TEST_CASE("groups of rows meet their own matrices, empty ones and single rows among them") {
  const ops::GroupEnds ends{0, 5, 5, 80, 81, 81};
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    const at::Tensor x = random({81, 32}, type), w = random({6, 44, 32}, type), dy = random({81, 44}, type);
    test::for_each_cpu_level([&] {
      const at::Tensor y = torch::empty({81, 44}, type), dx = torch::empty({81, 32}, type), sum = torch::zeros({6, 44, 32});
      ops::multiply_rows(x, w, ends, y);
      ops::multiply_rows_back(dy, w, ends, dx);
      ops::add_outer_products(dy, x, ends, sum);
      std::int64_t begin = 0;
      for (std::size_t g = 0; g < ends.size(); begin = ends[g++]) {
        const auto of = [&](const at::Tensor& rows) { return rows.narrow(0, begin, ends[g] - begin).to(torch::kDouble); };
        const at::Tensor weight = w[static_cast<std::int64_t>(g)].to(torch::kDouble);
        if (ends[g] > begin) check_near(of(y), of(x).mm(weight.t()), type);
        if (ends[g] > begin) check_near(of(dx), of(dy).mm(weight), type);
        check_near(sum[static_cast<std::int64_t>(g)], of(dy).t().mm(of(x)), at::kFloat);
      }
    });
  }
}

TEST_CASE("weights' gradients of long groups are added in parts, each to its own matrix") {
  const ops::GroupEnds ends{900, 900, 1700};
  REQUIRE(ops::outer_rows(900, 330, 290) == 450);
  REQUIRE(ops::outer_rows(700, 330, 290) == 700);  // a small rest is no part of its own
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    const at::Tensor x = random({1700, 290}, type), dy = random({1700, 330}, type);
    test::for_each_cpu_level([&] {
      const at::Tensor sum = torch::ones({3, 330, 290});
      ops::add_outer_products(dy, x, ends, sum);
      const auto exact = [&](std::int64_t begin, std::int64_t rows) {
        return dy.narrow(0, begin, rows).to(torch::kDouble).t().mm(x.narrow(0, begin, rows).to(torch::kDouble)) + 1;
      };
      check_near(sum[0], exact(0, 900), at::kFloat);
      CHECK(torch::equal(sum[1], torch::ones({330, 290})));
      check_near(sum[2], exact(900, 800), at::kFloat);
    });
  }
}

TEST_CASE("the bits of a product do not depend on the number of threads, of one matrix or of many") {
  const int threads = at::get_num_threads();
  ops::GroupEnds many;  // uneven: 2, 5, 8, … rows
  for (std::int64_t end = 2, rows = 5; many.size() < 16; end += rows, rows += 3) many.push_back(end);
  const ops::GroupEnds few{0, 40, 41, 300, many.back()};
  for (const ops::GroupEnds& ends : {ops::GroupEnds{many.back()}, few, many}) {
    for (const auto& [in, out] : {std::pair<std::int64_t, std::int64_t>{128, 530}, {530, 128}}) {
      for (const auto type : {at::kFloat, at::kBFloat16}) {
        const auto groups = static_cast<std::int64_t>(ends.size()), rows = ends.back();
        const at::Tensor x = random({rows, in}, type), w = random({groups, out, in}, type), dy = random({rows, out}, type);
        std::vector<at::Tensor> results;
        for (const int count : {1, 2, 3, 4, 7}) {
          at::set_num_threads(count);
          const at::Tensor y = torch::empty_like(dy), dx = torch::empty_like(x), sum = torch::zeros({groups, out, in});
          ops::multiply_rows(x, w, ends, y);
          ops::multiply_rows_back(dy, w, ends, dx);
          ops::add_outer_products(dy, x, ends, sum);
          results.push_back(torch::cat({y.to(at::kFloat).flatten(), dx.to(at::kFloat).flatten(), sum.flatten()}));
          INFO(groups << " groups, " << in << " x " << out << ", " << c10::toString(type) << ", " << count << " threads");
          CHECK(torch::equal(results[0], results.back()));
        }
      }
    }
  }
  at::set_num_threads(threads);
}

TEST_CASE("LibTorch's products are those of fp64 whatever the number of threads, of few rows and of many") {
  torch::manual_seed(3);
  const int threads = at::get_num_threads();
  for (const int count : {1, 2, 3, 8}) {
    at::set_num_threads(count);
    for (const auto& [rows, in, out] :
         std::vector<std::array<std::int64_t, 3>>{{64, 96, 160}, {77, 30, 46}, {300, 65, 131}, {9, 70, 210}}) {
      for (const auto type : {at::kFloat, at::kBFloat16, at::kDouble}) {
        INFO(count << " threads, " << rows << " x " << in << " x " << out << " " << c10::toString(type));
        const at::Tensor x = random({rows, in}, type), w = random({out, in}, type), dy = random({rows, out}, type);
        const at::Tensor dx = torch::full({rows, in}, NAN, type), sum = torch::ones({out, in}, ops::accumulate_type(type));
        ops::library_product(dy, w, dx);
        check_near(dx, dy.to(torch::kDouble).mm(w.to(torch::kDouble)), type);
        ops::add_product(sum, dy, x);
        check_near(sum, dy.to(torch::kDouble).t().mm(x.to(torch::kDouble)) + 1, type);
      }
    }
  }
  at::set_num_threads(threads);
}

TEST_CASE("linear agrees with its reference, values and gradients, with few rows and odd widths too") {
  torch::manual_seed(2);
  for (const auto& [rows, in, out] : std::vector<std::array<std::int64_t, 3>>{{64, 48, 80}, {3, 48, 80}, {64, 49, 81}}) {
    test::check_fused([](const std::vector<at::Tensor>& x, Path path) { return ops::linear(x[0], x[1], {}, path); },
                      {torch::randn({rows, in}), torch::randn({out, in})});
  }
  const at::Tensor x = torch::randn({40, 8}), w = torch::randn({6, 8}), b = torch::randn({6});
  CHECK(torch::allclose(ops::linear(x, w, b, Path::kFused), at::linear(x, w, b), 1e-5, 1e-5));
}

TEST_CASE("where a parameter's gradients have a place, they are added there in fp32 and autograd gets none") {
  torch::manual_seed(3);
  using Case = std::pair<at::ScalarType, Path>;
  for (const Case& c : {Case{at::kFloat, Path::kFused}, Case{at::kBFloat16, Path::kFused}, Case{at::kFloat, Path::kLibrary},
                        Case{at::kBFloat16, Path::kLibrary}}) {
    const at::ScalarType type = c.first;
    const Path path = c.second;
    const auto run = [&](bool in_place) {
      torch::manual_seed(4);
      const auto leaf = [&](at::IntArrayRef shape) { return random(shape, type).requires_grad_(); };
      std::vector<at::Tensor> weights{leaf({16, 32}), leaf({64, 16}), leaf({5, 24, 16}), leaf({5, 16, 12})};
      for (at::Tensor& weight : weights) {
        if (in_place) weight.mutable_grad() = torch::zeros(weight.sizes());
      }
      const at::Tensor tokens = torch::randint(64, {48}, torch::kInt), chosen = torch::randint(5, {48, 1});
      at::Tensor h = ops::embedding(weights[1], tokens, Path::kFused) + ops::linear(random({48, 32}, type), weights[0], {}, path);
      h = h + ops::expert_mixture(h, chosen, torch::full({48, 1}, 0.5f), {weights[2], weights[3]}, Path::kFused, Path::kFused);
      const at::Tensor loss = ops::linear_cross_entropy(h, weights[1], tokens, Path::kFused, 0, path).loss_sum;
      std::vector<at::Tensor> grads;
      if (in_place) {
        for (int pass = 0; pass < 2; ++pass) loss.backward({}, /*retain_graph=*/pass == 0);
        for (const at::Tensor& weight : weights) grads.push_back(weight.grad() / 2);
      } else {
        grads = torch::autograd::grad({loss}, weights);
      }
      return grads;
    };
    const auto handed_on = run(false), in_place = run(true);
    for (std::size_t i = 0; i < in_place.size(); ++i) {
      INFO(c10::toString(type) << " weight " << i);
      CHECK(in_place[i].scalar_type() == at::kFloat);
      CHECK(in_place[i].abs().max().item<double>() > 0);
      check_near(in_place[i], handed_on[i].to(torch::kDouble), type);
    }
  }
}
