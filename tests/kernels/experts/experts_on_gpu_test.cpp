// The expert kernels on a GPU, on the problems that the CPU layer solves.
#include "kernels/experts/cases.h"
#include "kernels/experts/run.h"
#include "kernels/on_gpu.h"
#include "meristem_kernels/device.h"
#include "support/catch.h"

using namespace meristem::test;
namespace kernels = meristem::kernels;

namespace {

void run_experts_on_gpu(ExpertProblem& p) {
  const OnGpu chosen(p.chosen);
  const OnGpu scratch(p.scratch), place(p.place), ends(p.ends);
  const OnGpu x(p.x), gathered(p.gathered), rows(p.rows), d_rows(p.d_rows), y(p.y), dy(p.dy);
  const OnGpu weights(p.weights), d_weights(p.d_weights);
  kernels::expert_sort(p.shape(), chosen.data(), scratch.data(), place.data(), ends.data(), nullptr);
  kernels::expert_gather(p.shape(), x.data(), place.data(), gathered.data(), nullptr);
  kernels::expert_combine(p.shape(), rows.data(), place.data(), p.given.weighted ? weights.data() : nullptr, y.data(), nullptr);
  kernels::expert_combine_backward(p.shape(), dy.data(), rows.data(), place.data(), weights.data(), d_rows.data(), d_weights.data(),
                                   nullptr);
  REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
  place.fetch();
  ends.fetch();
  gathered.fetch();
  y.fetch();
  d_rows.fetch();
  d_weights.fetch();
}

template <class T>
bool equal(const DeviceArray<T>& a, const DeviceArray<T>& b) {
  return std::equal(a.begin(), a.end(), b.begin());
}

}  // namespace

TEST_CASE("expert dispatch on the GPU agrees with the reference, and with itself to the bit") {
  require_gpu();
  auto cases = expert_cases();
  for (const ExpertCase& one : random_expert_cases(100)) cases.push_back(one);
  cases.push_back({"more choices than a wave of blocks", 100000, 4, 16, 8});
  for (const ExpertCase& one : cases) {
    INFO(one.name);
    ExpertProblem problem(one), again(one);
    run_experts_on_gpu(problem);
    CHECK(check_experts(problem).wrong == "");
    run_experts_on_gpu(again);
    CHECK(equal(problem.place, again.place));
    CHECK(equal(problem.y, again.y));
    CHECK(equal(problem.d_rows, again.d_rows));
    CHECK(equal(problem.d_weights, again.d_weights));
  }
}
