// Threads of a block as fibers of one OS thread: a stack each, and a switch of sixteen instructions.
#pragma once

#include <cstddef>
#include <vector>

namespace meristem::kernels::device::host {

// A stopped flow of control: where its stack pointer stands.
using Context = void*;

// Stops the running context into `from` and goes on with `to`.
extern "C" void meristem_switch_context(Context* from, Context to);

// Stacks of 128 KiB with an unmapped page below each; memory is taken when touched.
class Stacks {
 public:
  explicit Stacks(int count);
  ~Stacks();
  Stacks(const Stacks&) = delete;
  Stacks& operator=(const Stacks&) = delete;
  // A context that calls entry(), which never returns, on stack i.
  Context start(int i, void (*entry)());

 private:
  std::byte* memory_;
  std::size_t size_;
};

}  // namespace meristem::kernels::device::host
