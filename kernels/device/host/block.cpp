#include "device/host/block.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <string>
#include <utility>

namespace meristem::kernels::device::host {
namespace {

thread_local Block* current_block = nullptr;

}  // namespace

const char* name_of(Collective op) {
  static constexpr const char* kNames[] = {"warp_sync", "shuffle", "vote",    "ldmatrix",           "ldmatrix_trans",
                                           "stmatrix",  "mma",     "barrier", "named_barrier_sync", "named_barrier_arrive"};
  return kNames[static_cast<int>(op)];
}

Block::Block(int threads, int shared_bytes, const Settings& settings, Traffic& traffic, Work& work, Stacks& stacks)
    : settings_(settings),
      traffic_(traffic),
      work_(work),
      count_(threads),
      draw_(settings.seed),
      shared_bytes_(shared_bytes),
      stacks_(stacks) {
  if (threads <= 0 || threads > kMaxWarps * kWarp) throw Report(Fault::kBounds, "a block of " + std::to_string(threads) + " threads");
  if (shared_bytes > settings.limits.shared_of_block) {
    throw Report(Fault::kBounds,
                 std::to_string(shared_bytes) + " bytes of shared memory; a block has " + std::to_string(settings.limits.shared_of_block));
  }
}

Block& Block::current() { return *current_block; }

void Block::run(int index, const std::function<void()>& body) {
  index_ = index;
  body_ = &body;
  ++work_.blocks;
  clocks_.reset();
  shared_ = std::make_unique<SharedMemory>(clocks_, shared_bytes_, count_, settings_.detect);
  threads_.assign(static_cast<std::size_t>(count_), {});
  warps_.assign(static_cast<std::size_t>((count_ + kWarp - 1) / kWarp), {});
  if (count_ % kWarp != 0) warps_.back().exited = kAllLanes << (count_ % kWarp);
  barriers_ = {};
  failure_ = nullptr;
  alive_ = count_;
  ready_.resize(static_cast<std::size_t>(count_));
  first_ready_ = 0;
  ready_count_ = static_cast<std::size_t>(count_);
  for (int i = 0; i < count_; ++i) {
    threads_[static_cast<std::size_t>(i)].context = stacks_.start(i, &Block::enter);
    ready_[static_cast<std::size_t>(i)] = i;
  }
  Block* const outer = current_block;
  current_block = this;
  running_ = next_ready();
  meristem_switch_context(&main_, self().context);
  current_block = outer;
  for (Warp& left : warps_) left.traffic.meet(traffic_);
  if (failure_) std::rethrow_exception(failure_);  // the fibers that stand somewhere hold nothing that needs unwinding
}

void Block::enter() {
  Block& block = *current_block;
  try {
    (*block.body_)();
    block.retire();
  } catch (...) {
    block.failure_ = std::current_exception();
  }
  block.leave();
}

void Block::retire() {
  if (!self().copies.empty()) {
    throw Report(Fault::kInFlight,
                 "thread " + std::to_string(running_) + " ends before its copy from " + name_of(self().copies.front().site) + " landed");
  }
  const std::uint32_t bit = 1u << (running_ % kWarp);
  warp().exited |= bit;
  for (const Group& group : warp().groups) {
    if (group.lanes & bit) {
      throw Report(Fault::kDivergence, "thread " + std::to_string(running_) + " has ended, and its warp waits for it at " +
                                           name_of(group.op) + ", " + name_of(group.site));
    }
  }
  self().done = true;
  --alive_;
}

void Block::leave() {
  Context dead;
  if (!failure_ && alive_ > 0) {
    if (ready_count_ > 0) {
      running_ = next_ready();
      meristem_switch_context(&dead, self().context);
    }
    try {
      report_deadlock();
    } catch (...) {
      failure_ = std::current_exception();
    }
  }
  meristem_switch_context(&dead, main_);
}

void Block::stop() {
  if (ready_count_ == 0) report_deadlock();
  go_to(next_ready());
}

void Block::go_to(int thread) {
  if (thread == running_) return;
  Context* const from = &self().context;
  running_ = thread;
  meristem_switch_context(from, self().context);
}

int Block::next_ready() {
  if (settings_.seed != 0) {
    draw_ = draw_ * 1664525u + 1013904223u;
    const std::size_t chosen = (first_ready_ + (draw_ >> 8) % ready_count_) % ready_.size();
    std::swap(ready_[first_ready_], ready_[chosen]);
  }
  const int thread = ready_[first_ready_];
  first_ready_ = (first_ready_ + 1) % ready_.size();
  --ready_count_;
  return thread;
}

void Block::make_ready(int warp, std::uint32_t lanes, int except) {
  for (int lane = 0; lane < kWarp; ++lane) {
    const int thread = warp * kWarp + lane;
    if ((lanes >> lane & 1) == 0 || thread == except) continue;
    ready_[(first_ready_ + ready_count_++) % ready_.size()] = thread;
  }
}

Block::Group* Block::arrive(Collective op, std::uint32_t lanes, const Site& site, void* argument) {
  Warp& mine = warp();
  const int lane = running_ % kWarp;
  const std::uint32_t bit = 1u << lane;
  const auto here = [&] { return "thread " + std::to_string(running_) + " is at " + name_of(op) + ", " + name_of(site); };
  if ((lanes & bit) == 0) throw Report(Fault::kDivergence, here() + ", whose lanes do not include its own");
  if (lanes & mine.exited) throw Report(Fault::kDivergence, here() + ", and waits for lanes that have ended");
  auto group = mine.groups.begin();
  for (; group != mine.groups.end(); ++group) {
    if ((group->lanes & lanes) == 0) continue;
    if (group->op == op && group->lanes == lanes && group->site.line() == site.line() && group->site.column() == site.column()) break;
    throw Report(Fault::kDivergence, here() + ", while its warp waits for it at " + name_of(group->op) + ", " + name_of(group->site));
  }
  if (group == mine.groups.end()) group = mine.groups.insert(mine.groups.end(), Group{op, lanes, 0, site, {}});
  group->arrived |= bit;
  group->arguments[static_cast<std::size_t>(lane)] = argument;
  if (group->arrived == lanes) {
    if (lanes == kAllLanes && settings_.count_traffic) mine.traffic.meet(traffic_);
    return &*group;
  }
  stop();
  return nullptr;
}

void Block::release(Group& group) {
  Warp& mine = warp();
  const std::uint32_t lanes = group.lanes;
  mine.groups.erase(mine.groups.begin() + (&group - mine.groups.data()));
  make_ready(running_ / kWarp, lanes, running_);
}

void Block::barrier(Collective op, int id, int threads, const Site& site) {
  const std::uint32_t lanes = running_ / kWarp == count_ / kWarp ? ~(kAllLanes << (count_ % kWarp)) : kAllLanes;
  int asked[2] = {id, threads};
  Group* group = arrive(op, lanes, site, asked);
  if (group == nullptr) return;
  for (int lane = 0; lane < kWarp; ++lane) {
    const auto* other = static_cast<const int*>(group->arguments[static_cast<std::size_t>(lane)]);
    if ((lanes >> lane & 1) != 0 && (other[0] != id || other[1] != threads)) {
      throw Report(Fault::kDivergence, std::string("lanes of one warp at different barriers, ") + name_of(site));
    }
  }
  ++work_.barriers;
  // The warp has met; now the warps do. The lanes stay where they are until the barrier opens.
  const bool opened = arrive_at_barrier(op, id, threads, site);
  warp().groups.clear();
  if (opened) return;
  stop();
}

// True where the running thread goes on; the other lanes are made ready, or wait with it.
bool Block::arrive_at_barrier(Collective op, int id, int threads, const Site& site) {
  const int mine = running_ / kWarp;
  const int lanes = std::min(kWarp, count_ - mine * kWarp);
  if (id < 0 || id > 15 || threads <= 0 || threads > count_) {
    throw Report(Fault::kBounds, "barrier " + std::to_string(id) + " of " + std::to_string(threads) + " threads at " + name_of(site));
  }
  Barrier& barrier = barriers_[static_cast<std::size_t>(id)];
  if (barrier.arrived == 0) barrier.threads = threads;
  if (barrier.threads != threads || barrier.arrived + lanes > threads) {
    throw Report(Fault::kDivergence, "barrier " + std::to_string(id) + " at " + name_of(site) + ": more or other threads than it is for");
  }
  barrier.arrived += lanes;
  for (std::size_t i = 0; i < kMaxWarps; ++i) barrier.seen[i] = std::max(barrier.seen[i], clocks_.vector(mine)[i]);
  clocks_.synchronise_warp(mine);
  const std::uint32_t all = lanes == kWarp ? kAllLanes : ~(kAllLanes << lanes);
  const bool waits = op != Collective::kNamedArrive;
  if (waits) barrier.waiting.push_back(mine);
  if (!waits) make_ready(mine, all, running_);
  if (barrier.arrived < threads) return !waits;
  for (const int other : barrier.waiting) {
    clocks_.acquire(other, barrier.seen);
    const int left = std::min(kWarp, count_ - other * kWarp);
    make_ready(other, left == kWarp ? kAllLanes : ~(kAllLanes << left), running_);
  }
  barrier = {};
  return true;
}

void Block::report_deadlock() {
  std::string text = "deadlock: nobody can run";
  for (std::size_t w = 0; w < warps_.size(); ++w) {
    for (const Group& group : warps_[w].groups) {
      text += "; " + std::to_string(std::popcount(group.arrived)) + " of " + std::to_string(std::popcount(group.lanes)) +
              " lanes of warp " + std::to_string(w) + " at " + name_of(group.op) + ", " + name_of(group.site);
    }
  }
  for (std::size_t id = 0; id < barriers_.size(); ++id) {
    if (barriers_[id].arrived == 0) continue;
    text += "; " + std::to_string(barriers_[id].arrived) + " of " + std::to_string(barriers_[id].threads) + " threads at barrier " +
            std::to_string(id);
  }
  throw Report(Fault::kDeadlock, text);
}

void Block::count_access(const Site& site, std::uint64_t address, int bytes, bool shared) {
  if (settings_.count_traffic) warp().traffic.access(traffic_, site, running_ % kWarp, address, bytes, shared);
}

void Block::count_warp_access(const Site& site, const std::uint64_t* rows) {
  if (!settings_.count_traffic) return;
  LineTraffic& line = traffic_[{site.file_name(), site.line()}];
  ++line.shared_accesses;
  line.bank_conflicts += bank_conflicts(rows, kAllLanes, 16);
}

void Block::begin_copy(SharedAddress to, const void* from, int bytes, const Site& site) {
  shared_->begin_copy(to, bytes, running_, site);
  ++work_.copies;
  self().copies.push_back({to, from, bytes, self().committed, site});
}

void Block::wait_copies(int pending) {
  Thread& mine = self();
  const auto landed = [&](const Copy& copy) { return copy.group < mine.committed - pending; };
  for (const Copy& copy : mine.copies) {
    if (!landed(copy)) continue;
    Vec4 value{};
    if (copy.from != nullptr) std::memcpy(&value, copy.from, static_cast<std::size_t>(copy.bytes));
    shared_->land_copy(copy.to, copy.bytes, running_, value);
  }
  std::erase_if(mine.copies, landed);
}

Grid& Grid::current() {
  static Grid grid;
  return grid;
}

void Grid::run(std::int64_t count, int threads, int shared, const std::function<void()>& body) {
  if (count > 0x7FFFFFFF) throw Report(Fault::kBounds, "more than 2^31 - 1 blocks");
  blocks = static_cast<int>(count);
  work.shared += shared;
  std::unique_ptr<Stacks> stacks = std::move(stacks_);
  if (stacks == nullptr || stacks->count() < threads) stacks = std::make_unique<Stacks>(threads);
  Block block(threads, shared, settings, traffic, work, *stacks);
  for (int i = 0; i < blocks; ++i) block.run(i, body);
  stacks_ = std::move(stacks);
}

}  // namespace meristem::kernels::device::host
