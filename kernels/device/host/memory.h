// Global memory behind checked pointers, shared memory, and the copy from one to the other.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>

#include "device/base.h"
#include "device/host/block.h"

namespace meristem::kernels::device {

// Keeps the buffer that it was made from: arithmetic may leave it, an access outside is a fault.
template <class T>
struct gptr {
  explicit gptr(T* pointer) : raw(pointer), range(host::GlobalMemory::instance().range_of(pointer)) {}
  gptr operator+(std::int64_t elements) const {
    gptr moved = *this;
    moved.raw = reinterpret_cast<T*>(reinterpret_cast<std::uintptr_t>(raw) + static_cast<std::uintptr_t>(elements) * sizeof(T));
    return moved;
  }
  T* raw;
  host::Range range;
};

namespace host {

template <class T>
void check_global(const gptr<T>& p, std::size_t bytes, const Site& site) {
  const auto at = reinterpret_cast<std::uintptr_t>(p.raw);
  const auto where = [&] { return "global access of " + std::to_string(bytes) + " bytes at " + name_of(site); };
  if (at < p.range.begin || at + bytes > p.range.end) {
    throw Report(Fault::kBounds, where() + ": byte " + std::to_string(static_cast<std::int64_t>(at - p.range.begin)) + " of a buffer of " +
                                     std::to_string(p.range.end - p.range.begin));
  }
  if (at % bytes != 0) throw Report(Fault::kMisaligned, where() + " is not aligned to its size");
  Block::current().count_access(site, at, static_cast<int>(bytes), false);
}

}  // namespace host

template <class V, class T>
V ldg(gptr<T> p, host::Site site = host::Site::current()) {
  host::check_global(p, sizeof(V), site);
  V value;
  std::memcpy(&value, p.raw, sizeof value);
  return value;
}
template <class V, class T>
void stg(gptr<T> p, const V& value, host::Site site = host::Site::current()) {
  static_assert(!std::is_const_v<T>, "the buffer is read-only");
  host::check_global(p, sizeof(V), site);
  host::Block::current().count_store(sizeof(V));
  std::memcpy(p.raw, &value, sizeof value);
}
template <class T>
Vec4 ldg_streaming(gptr<T> p, host::Site site = host::Site::current()) {
  return ldg<Vec4>(p, site);
}
template <class T>
void stg_streaming(gptr<T> p, const Vec4& value, host::Site site = host::Site::current()) {
  stg(p, value, site);
}
template <class T>
void atomic_add(gptr<T> p, T value, host::Site site = host::Site::current()) {
  host::check_global(p, sizeof(T), site);
  host::Block::current().count_addition(sizeof(T));
  *p.raw += value;
}
inline void atomic_add_2(gptr<float> p, float first, float second, host::Site site = host::Site::current()) {
  host::check_global(p, 2 * sizeof(float), site);
  host::Block::current().count_addition(2 * sizeof(float));
  p.raw[0] += first;
  p.raw[1] += second;
}

// Shared memory by 32-bit byte address.

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

// cp.async: lands as late as the program allows, at the wait that asks for its group.
template <class T>
void cp_async_16(SharedAddress to, gptr<T> from, bool valid, host::Site site = host::Site::current()) {
  if (valid) host::check_global(from, 16, site);
  host::Block& block = host::Block::current();
  block.count_access(site, to, 16, true);
  block.begin_copy(to, valid ? from.raw : nullptr, 16, site);
}
template <class T>
void cp_async_4(SharedAddress to, gptr<T> from, bool valid, host::Site site = host::Site::current()) {
  if (valid) host::check_global(from, 4, site);
  host::Block& block = host::Block::current();
  block.count_access(site, to, 4, true);
  block.begin_copy(to, valid ? from.raw : nullptr, 4, site);
}
inline void cp_async_commit() { host::Block::current().commit_copies(); }
template <int pending>
void cp_async_wait() {
  host::Block::current().wait_copies(pending);
}

}  // namespace meristem::kernels::device
