#include "ops/strands.h"

#include <algorithm>

#include <ATen/ThreadLocalState.h>
#include <omp.h>

#include "ops/launch.h"

namespace meristem::ops {
namespace {

struct Running {
  std::int64_t strand = 0;
  const at::Tensor* gradients = nullptr;  // null: those that parameters have
};
thread_local Running running;

// While it lives, this thread is the strand, and at::get_num_threads() is 1 for it.
class OnStrand {
 public:
  OnStrand(std::int64_t strand, const at::Tensor& gradients) : threads_(at::get_num_threads()) {
    // A thread's first parallel_for sets its number of threads, once in LibTorch (above) and once in this program.
    at::internal::lazy_init_num_threads();
    omp_set_num_threads(1);  // at::set_num_threads would tell MKL of all threads
    running = {strand, &gradients};
  }
  ~OnStrand() {
    running = {};
    omp_set_num_threads(threads_);
  }
  OnStrand(const OnStrand&) = delete;
  OnStrand& operator=(const OnStrand&) = delete;

 private:
  int threads_;
};

}  // namespace

void on_strands(const std::vector<at::Tensor>& gradients, const std::function<void(std::int64_t)>& body) {
  const std::int64_t count = std::ssize(gradients);
  if (count == 1) return body(0);
  TORCH_CHECK(count <= at::get_num_threads(), count, " strands on ", at::get_num_threads(), " threads");
  const at::ThreadLocalState state;  // grad mode, profiler
  at::parallel_for(0, count, 1, [&](std::int64_t first, std::int64_t last) {
    const at::ThreadLocalStateGuard same(state);
    for (std::int64_t s = first; s < last; ++s) {
      const OnStrand here(s, gradients[static_cast<std::size_t>(s)]);
      body(s);
    }
  });
}

std::int64_t strand() { return running.strand; }

at::Tensor of_strand(const at::Tensor& sum) {
  if (running.strand == 0) return sum;
  return running.gradients->as_strided(sum.sizes(), sum.strides(), sum.storage_offset());
}

void join_strands(const std::vector<at::Tensor>& gradients) {
  if (gradients.size() == 1) return;
  constexpr std::int64_t kPiece = 1 << 13;  // which stays in the first cache
  const std::int64_t count = gradients[0].numel();
  float* sum = gradients[0].data_ptr<float>();
  parallel_rows((count + kPiece - 1) / kPiece, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t begin = first * kPiece; begin < std::min(count, last * kPiece); begin += kPiece) {
      const std::int64_t piece = std::min(kPiece, count - begin);
      for (std::size_t s = 1; s < gradients.size(); ++s) {
        float* own = gradients[s].data_ptr<float>() + begin;
        cpu::row_kernels().f32.accumulate(sum + begin, own, piece);
        std::fill_n(own, piece, 0.0f);
      }
    }
  });
}

}  // namespace meristem::ops
