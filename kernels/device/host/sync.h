// Barriers of the block, of a part of it, and of a warp.
#pragma once

#include "device/host/block.h"

namespace meristem::kernels::device {

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

}  // namespace meristem::kernels::device
