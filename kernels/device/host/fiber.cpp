// Threads of a block as fibers: a stack each, and a switch of sixteen instructions.
#include "device/host/block.h"

#include <sys/mman.h>

#include <cstdint>
#include <new>

#ifndef __x86_64__
#error "the switch is written for x86-64 alone; the build leaves these tests out elsewhere"
#endif

// The System V ABI's callee-saved registers. MXCSR and the x87 word are the same in all fibers.
asm(R"(
.text
.globl meristem_switch_context
.type meristem_switch_context, @function
meristem_switch_context:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size meristem_switch_context, .-meristem_switch_context
)");

namespace meristem::kernels::device::host {
namespace {

constexpr std::size_t kPage = 4096, kStack = 128 * 1024 + kPage;

}  // namespace

Stacks::Stacks(int count) : count_(count), size_(static_cast<std::size_t>(count) * kStack) {
  void* memory = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  memory_ = static_cast<std::byte*>(memory);
  for (int i = 0; i < count; ++i) mprotect(memory_ + static_cast<std::size_t>(i) * kStack, kPage, PROT_NONE);
}

Stacks::~Stacks() { munmap(memory_, size_); }

Context Stacks::start(int i, void (*entry)()) {
  // At a function's first instruction, rsp + 8 is a multiple of 16; the switch pops six registers and returns into `entry`.
  auto* top = reinterpret_cast<std::uintptr_t*>(memory_ + static_cast<std::size_t>(i + 1) * kStack);
  top[-1] = 0;
  top[-2] = reinterpret_cast<std::uintptr_t>(entry);
  for (int word = 3; word <= 8; ++word) top[-word] = 0;
  return top - 8;
}

}  // namespace meristem::kernels::device::host
