// The launches of a test, and one block while it runs: a fiber a thread, the warps' collectives, barriers, copies in flight.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <vector>

#include "device/host/checked_memory.h"
#include "device/host/traffic.h"

namespace meristem::kernels::device::host {

inline constexpr Limits kH200{132, 228 * 1024, 227 * 1024}, kA100{108, 164 * 1024, 163 * 1024}, kA10{72, 100 * 1024, 99 * 1024};

// How a launch runs and what it left behind.
struct Settings {
  std::uint32_t seed = 0;  // 0: threads in order; else the next of those that can run is drawn
  bool detect = true;      // races and copies in flight; without it a missing wait reads poison
  bool count_traffic = true;
  Limits limits = kH200;
};

// The threads of a block are fibers of one OS thread. A stopped flow of control: where its stack pointer stands.
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
  int count() const { return count_; }
  // A context that calls entry(), which never returns, on stack i.
  Context start(int i, void (*entry)());

 private:
  int count_;
  std::byte* memory_;
  std::size_t size_;
};

enum class Collective { kWarpSync, kShuffle, kVote, kLdmatrix, kLdmatrixTrans, kStmatrix, kMma, kBarrier, kNamedSync, kNamedArrive };
const char* name_of(Collective op);

// One block.
class Block {
 public:
  // stacks: at least as many as there are threads.
  Block(int threads, int shared_bytes, const Settings& settings, Traffic& traffic, Work& work, Stacks& stacks);

  // Runs body() in every thread until all have returned; throws the first Report.
  void run(int index, const std::function<void()>& body);

  // What the layer's calls use, from within a thread.
  static Block& current();
  int thread() const { return running_; }
  int index() const { return index_; }
  int thread_count() const { return count_; }
  SharedMemory& shared() { return *shared_; }
  void count_access(const Site& site, std::uint64_t address, int bytes, bool shared);
  void count_store(int bytes) { work_.stored += bytes; }
  void count_addition(int bytes) { work_.added += bytes; }
  void count_warp_access(const Site& site, const std::uint64_t* rows);  // ldmatrix, stmatrix: 32 rows of 16 bytes

  // Waits until every lane of `lanes` is at the same call; the last one runs act(arguments by lane).
  using Arguments = std::array<void*, 32>;
  template <class Act>
  void collective(Collective op, std::uint32_t lanes, const Site& site, void* argument, Act&& act) {
    if (Group* group = arrive(op, lanes, site, argument)) {
      act(group->arguments);
      work_.products += op == Collective::kMma;
      work_.exchanges += op == Collective::kShuffle || op == Collective::kVote;
      release(*group);
    }
  }
  void barrier(Collective op, int id, int threads, const Site& site);
  void synchronise_warp() { clocks_.synchronise_warp(running_ / kWarp); }

  void begin_copy(SharedAddress to, const void* from, int bytes, const Site& site);
  void commit_copies() { ++self().committed; }
  void wait_copies(int pending);

 private:
  struct Group {  // lanes on their way to one collective
    Collective op;
    std::uint32_t lanes, arrived;
    Site site;
    Arguments arguments;
  };
  struct Copy {
    SharedAddress to;
    const void* from;  // null: zeros
    int bytes, group;
    Site site;
  };
  struct Thread {
    Context context = nullptr;
    bool done = false;
    int committed = 0;
    std::vector<Copy> copies;
  };
  struct Warp {
    std::vector<Group> groups;
    WarpTraffic traffic;
    std::uint32_t exited = 0;
  };
  struct Barrier {
    int threads = 0, arrived = 0;
    Clocks::Vector seen{};
    std::vector<int> waiting;  // warps
  };

  static void enter();
  Thread& self() { return threads_[static_cast<std::size_t>(running_)]; }
  Warp& warp() { return warps_[static_cast<std::size_t>(running_ / kWarp)]; }
  Group* arrive(Collective op, std::uint32_t lanes, const Site& site, void* argument);
  void release(Group& group);
  void make_ready(int warp, std::uint32_t lanes, int except);
  bool arrive_at_barrier(Collective op, int id, int threads, const Site& site);
  void stop();  // this thread waits; another one runs
  void leave();
  void go_to(int thread);
  int next_ready();
  [[noreturn]] void report_deadlock();
  void retire();

  Settings settings_;
  Traffic& traffic_;
  Work& work_;
  int count_, index_ = 0, running_ = -1, alive_ = 0;
  std::uint32_t draw_;
  Clocks clocks_;
  std::unique_ptr<SharedMemory> shared_;
  int shared_bytes_;
  Stacks& stacks_;
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  std::array<Barrier, 16> barriers_;
  std::vector<int> ready_;  // a ring
  std::size_t first_ready_ = 0, ready_count_ = 0;
  Context main_ = nullptr;
  const std::function<void()>* body_ = nullptr;
  std::exception_ptr failure_;
};

// The launches of a test: how they run, and what was counted.
struct Grid {
  static Grid& current();

  // Runs body() for every thread of every block, one block after the other.
  void run(std::int64_t blocks, int threads, int shared_bytes, const std::function<void()>& body);

  Settings settings;
  Traffic traffic;  // of all launches since it was cleared
  Work work;        // the same
  int blocks = 0;   // of the running launch

 private:
  std::unique_ptr<Stacks> stacks_;  // of the last launch, for the next one
};

}  // namespace meristem::kernels::device::host
