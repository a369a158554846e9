// Threads: where one stands, barriers, shuffles and votes, and the launch that runs them.
#pragma once

#include <cstdint>
#include <string>

#include "device/base.h"
#include "device/host/block.h"

namespace meristem::kernels::device {

inline int thread_index() { return host::Block::current().thread(); }
inline int block_index() { return host::Block::current().index(); }
inline int block_count() { return host::Grid::current().blocks; }
inline int lane_index() { return thread_index() % kWarp; }
inline int warp_index() { return thread_index() / kWarp; }

inline void barrier(host::Site site = host::Site::current()) {
  host::Block& block = host::Block::current();
  block.barrier(host::Collective::kBarrier, 0, block.thread_count(), site);
}
inline void named_barrier_sync(int id, int threads, host::Site site = host::Site::current()) {
  host::Block::current().barrier(host::Collective::kNamedSync, id, threads, site);
}
inline void named_barrier_arrive(int id, int threads, host::Site site = host::Site::current()) {
  host::Block::current().barrier(host::Collective::kNamedArrive, id, threads, site);
}
// Only a sync of the whole warp counts as one that orders memory; of a part, it is checked for arrival alone.
inline void warp_sync(std::uint32_t lanes = kAllLanes, host::Site site = host::Site::current()) {
  host::Block& block = host::Block::current();
  block.collective(host::Collective::kWarpSync, lanes, site, nullptr, [&](const host::Block::Arguments&) {
    if (lanes == kAllLanes) block.synchronise_warp();
  });
}

// Shuffles and votes of a whole warp. They move registers and order no memory.
namespace host {

template <class T>
struct Shuffle {
  T value;
  int from;
};

// Every lane gives a value and the lane whose value it wants; that one must take part.
template <class T>
T shuffle_from(T value, int from, std::uint32_t lanes, const Site& site) {
  Shuffle<T> mine{value, from};
  Block::current().collective(Collective::kShuffle, lanes, site, &mine, [&](const Block::Arguments& arguments) {
    std::array<T, 32> values{};
    for (std::size_t lane = 0; lane < 32; ++lane) {
      if (lanes >> lane & 1) values[lane] = static_cast<Shuffle<T>*>(arguments[lane])->value;
    }
    for (std::size_t lane = 0; lane < 32; ++lane) {
      if ((lanes >> lane & 1) == 0) continue;
      auto& wanted = *static_cast<Shuffle<T>*>(arguments[lane]);
      if (wanted.from < 0 || wanted.from > 31 || (lanes >> wanted.from & 1) == 0) {
        throw Report(Fault::kDivergence, "shuffle at " + name_of(site) + ": lane " + std::to_string(lane) + " asks lane " +
                                             std::to_string(wanted.from) + ", which takes no part");
      }
      wanted.value = values[static_cast<std::size_t>(wanted.from)];
    }
  });
  return mine.value;
}

}  // namespace host

template <class T>
T shuffle(T value, int lane, std::uint32_t lanes = kAllLanes, host::Site site = host::Site::current()) {
  return host::shuffle_from(value, lane & 31, lanes, site);
}
template <class T>
T shuffle_xor(T value, int lane_mask, std::uint32_t lanes = kAllLanes, host::Site site = host::Site::current()) {
  return host::shuffle_from(value, (host::Block::current().thread() % kWarp) ^ lane_mask, lanes, site);
}
// Lanes whose source is beyond the warp keep their value.
template <class T>
T shuffle_down(T value, int delta, std::uint32_t lanes = kAllLanes, host::Site site = host::Site::current()) {
  const int lane = host::Block::current().thread() % kWarp;
  return host::shuffle_from(value, lane + delta > 31 ? lane : lane + delta, lanes, site);
}
inline std::uint32_t ballot(bool yes, std::uint32_t lanes = kAllLanes, host::Site site = host::Site::current()) {
  std::uint32_t mine = yes;
  host::Block::current().collective(host::Collective::kVote, lanes, site, &mine, [&](const host::Block::Arguments& arguments) {
    std::uint32_t votes = 0;
    for (std::size_t lane = 0; lane < 32; ++lane) {
      if (lanes >> lane & 1) votes |= *static_cast<std::uint32_t*>(arguments[lane]) << lane;
    }
    for (std::size_t lane = 0; lane < 32; ++lane) {
      if (lanes >> lane & 1) *static_cast<std::uint32_t*>(arguments[lane]) = votes;
    }
  });
  return mine;
}
inline bool any(bool yes, std::uint32_t lanes = kAllLanes, host::Site site = host::Site::current()) {
  return ballot(yes, lanes, site) != 0;
}
inline bool all(bool yes, std::uint32_t lanes = kAllLanes, host::Site site = host::Site::current()) {
  return ballot(yes, lanes, site) == lanes;
}

inline Limits limits() { return host::Grid::current().settings.limits; }

// "Starts" a kernel: runs it to its end. `stream` is not looked at.
template <class Parameters, class Stream>
void launch(const char* name, void (*kernel)(Parameters), std::int64_t blocks, int threads, int shared_bytes, Stream,
            const Parameters& parameters) {
  try {
    host::Grid::current().run(blocks, threads, shared_bytes, [&] { kernel(parameters); });
  } catch (const host::Report& report) {
    throw host::Report(report.fault, std::string(name) + ": " + report.what());
  }
}

}  // namespace meristem::kernels::device
