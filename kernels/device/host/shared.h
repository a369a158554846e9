// Shared memory by 32-bit byte address.
#pragma once

#include <cstring>

#include "device/host/block.h"

namespace meristem::kernels::device {

struct float2 {
  float x, y;
};

inline SharedAddress shared_base() { return host::SharedMemory::kBase; }

template <class T>
T lds(SharedAddress from, host::Site site = host::Site::current()) {
  host::Block& block = host::Block::current();
  T value;
  std::memcpy(&value, block.shared().read(from, sizeof(T), {block.thread()}, site), sizeof value);
  block.count_access(site, from, sizeof(T), true);
  return value;
}
template <class T>
void sts(SharedAddress to, const T& value, host::Site site = host::Site::current()) {
  host::Block& block = host::Block::current();
  std::memcpy(block.shared().write(to, sizeof(T), {block.thread()}, site), &value, sizeof value);
  block.count_access(site, to, sizeof(T), true);
}
template <class T>
void atomic_add_shared(SharedAddress to, T value, host::Site site = host::Site::current()) {
  host::Block& block = host::Block::current();
  void* at = block.shared().write(to, sizeof(T), {block.thread()}, site, /*atomic=*/true);
  T sum;
  std::memcpy(&sum, at, sizeof sum);
  sum += value;
  std::memcpy(at, &sum, sizeof sum);
}

}  // namespace meristem::kernels::device
