// How operators launch our own kernels: on the CPU over rows and threads (ops/cpu), on a CUDA device on LibTorch's current stream
// (kernels/). Nothing here or in the operators asks how this build was made: without CUDA the kernels' stand-in refuses every call.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include "meristem_kernels/device.h"
#include "ops/cpu/row_kernels.h"

namespace meristem::ops {

// The type that reductions run in: double for double, else float.
inline at::ScalarType accumulate_type(at::ScalarType dtype) { return dtype == at::kDouble ? at::kDouble : at::kFloat; }

// A tensor's elements as our kernels see them: float, std::uint16_t for bfloat16. data_or_null: null for an undefined tensor.
template <class X>
X* data_of(const at::Tensor& t) {
  return static_cast<X*>(t.data_ptr());
}
inline void* data_or_null(const at::Tensor& t) { return t.defined() ? t.data_ptr() : nullptr; }
inline std::uint16_t* words(const at::Tensor& t) { return data_of<std::uint16_t>(t); }

// Calls body(chunk, begin, end) for `chunks` contiguous ranges of [0, rows), in parallel. Chunks depend only on (rows, chunks): the same
// thread count gives the same bits.
template <class Body>
void parallel_chunks(std::int64_t rows, std::int64_t chunks, const Body& body) {
  if (rows == 1) return body(std::int64_t{0}, std::int64_t{0}, std::int64_t{1});  // a token that is decoded: no thread is woken
  const std::int64_t size = (rows + chunks - 1) / std::max<std::int64_t>(chunks, 1);
  at::parallel_for(0, chunks, 1, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t c = first; c < last; ++c) {
      const std::int64_t begin = std::min(rows, c * size), end = std::min(rows, begin + size);
      if (begin < end) body(c, begin, end);
    }
  });
}

// One range a thread: body(begin, end).
template <class Body>
void parallel_rows(std::int64_t rows, const Body& body) {
  parallel_chunks(rows, at::get_num_threads(), [&](std::int64_t, std::int64_t begin, std::int64_t end) { body(begin, end); });
}

// body(piece) for each of so many pieces of work, by whichever thread is free. What a piece computes is its own, so that the bits do not
// depend on who does.
template <class Body>
void parallel_pieces(std::int64_t pieces, const Body& body) {
  std::atomic<std::int64_t> next = 0;
  at::parallel_for(0, std::min<std::int64_t>(at::get_num_threads(), pieces), 1, [&](std::int64_t first, std::int64_t last) {
    for (; first < last; ++first) {
      for (std::int64_t i = next++; i < pieces; i = next++) body(i);
    }
  });
}

// A thread's memory for one piece of work, 64-byte aligned; it stays between calls, so that no step faults pages in anew.
inline void* thread_scratch(std::int64_t bytes) {
  thread_local at::Tensor held;
  if (!held.defined() || held.numel() < bytes) held = at::empty({bytes}, at::kByte);
  return held.data_ptr();
}

// Our CPU kernels for an element type. body is a generic lambda taking (const cpu::TypedKernels<X>&, X); the second only names the type.
template <class Body>
void dispatch_cpu(at::ScalarType dtype, const Body& body) {
  if (dtype == at::kFloat) {
    body(cpu::row_kernels().f32, float{});
  } else {
    TORCH_CHECK(dtype == at::kBFloat16, "CPU kernels compute in float32 or bfloat16, got ", dtype);
    body(cpu::row_kernels().bf16, std::uint16_t{});
  }
}

// The stream that LibTorch's operators on this tensor's device go to. Null for a CPU tensor: tests run the kernels' own source there.
inline kernels::Stream stream_of(const at::Tensor& t) {
  if (t.is_cpu()) return nullptr;
  const c10::impl::VirtualGuardImpl guard(t.device().type());
  return static_cast<kernels::Stream>(guard.getStreamNativeHandle(guard.getStream(t.device())));
}

// Of a contiguous float32 or bfloat16 tensor.
inline kernels::Element element_type(const at::Tensor& t) {
  TORCH_CHECK(t.scalar_type() == at::kFloat || t.scalar_type() == at::kBFloat16, "our CUDA kernels take float32 or bfloat16, got ",
              t.scalar_type());
  TORCH_CHECK(t.is_contiguous(), "our CUDA kernels over rows take contiguous tensors");
  return t.scalar_type() == at::kFloat ? kernels::Element::kFloat : kernels::Element::kBf16;
}

// Rows of 16-bit words that our kernels can read in place, whole 16 bytes apart with columns side by side; a copy where they are not.
inline at::Tensor readable(const at::Tensor& x) {
  const bool in_place = x.stride(1) == 1 && x.stride(0) % 8 == 0 && reinterpret_cast<std::uintptr_t>(x.data_ptr()) % 16 == 0;
  return in_place ? x : x.contiguous();
}

}  // namespace meristem::ops
