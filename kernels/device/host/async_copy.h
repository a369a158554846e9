// cp.async: lands as late as the program allows, at the wait that asks for its group.
#pragma once

#include "device/host/block.h"
#include "device/host/global.h"

namespace meristem::kernels::device {

template <class T>
void cp_async_16(SharedAddress to, gptr<T> from, bool valid, host::Site site = host::Site::current()) {
  if (valid) host::check_global(from, 16, site);
  host::Block& block = host::Block::current();
  block.count_access(site, to, 16, true);
  block.begin_copy(to, valid ? from.raw : nullptr, site);
}
inline void cp_async_commit() { host::Block::current().commit_copies(); }
template <int pending>
void cp_async_wait() {
  host::Block::current().wait_copies(pending);
}

}  // namespace meristem::kernels::device
