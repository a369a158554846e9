#include "device/host/global_memory.h"

#include <sys/mman.h>

#include <cstring>
#include <new>

namespace meristem::kernels::device::host {

GlobalMemory& GlobalMemory::instance() {
  static GlobalMemory memory;
  return memory;
}

void GlobalMemory::add(const void* begin, std::size_t bytes) {
  const auto first = reinterpret_cast<std::uintptr_t>(begin);
  ranges_[first] = first + bytes;
}

void GlobalMemory::remove(const void* begin) { ranges_.erase(reinterpret_cast<std::uintptr_t>(begin)); }

Range GlobalMemory::range_of(const void* pointer) const {
  const auto at = reinterpret_cast<std::uintptr_t>(pointer);
  auto after = ranges_.upper_bound(at);
  if (after == ranges_.begin()) return {};
  --after;
  return at < after->second || at == after->first ? Range{after->first, after->second} : Range{};
}

Buffer::Buffer(std::size_t bytes, bool poison) : bytes_(bytes == 0 ? 1 : bytes) {
  data_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data_ == MAP_FAILED) throw std::bad_alloc();
  if (poison) std::memset(data_, 0xFF, bytes);
  GlobalMemory::instance().add(data_, bytes);
}

Buffer::~Buffer() {
  GlobalMemory::instance().remove(data_);
  munmap(data_, bytes_);
}

}  // namespace meristem::kernels::device::host
