// Strands: threads that each carry some of a micro-batch's sequences through a whole model, forward and backward. Threads that share an
// operator wait for one another at its end, a few hundred times an update, and small products are cut too small; strands meet once, and
// what a strand reads it has mostly written itself, in its own core's cache. For that each sums its gradients in a buffer of its own.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include <ATen/core/Tensor.h>

namespace meristem::ops {

// body(s) for each strand s, at the same time: on threads of their own, where all that LibTorch and our kernels do stays on that thread.
// Returns when all are done; throws what the first one that failed has thrown. gradients[s]: flat float32, of one layout; gradients[0] is
// the one that parameters' gradients are views of. One of them: body(0) on the calling thread, which may use all threads.
void on_strands(const std::vector<at::Tensor>& gradients, const std::function<void(std::int64_t)>& body);

// The strand that runs here; 0 where none does.
std::int64_t strand();

// The running strand's place for what `sum`, a view of gradients[0], is the first strand's place for.
at::Tensor of_strand(const at::Tensor& sum);

// gradients[0] += all others, in their order; these become zero.
void join_strands(const std::vector<at::Tensor>& gradients);

}  // namespace meristem::ops
