// The device's global memory: buffers that a pointer belongs to for good, however far arithmetic takes it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>

namespace meristem::kernels::device::host {

struct Range {
  std::uintptr_t begin = 0, end = 0;
};

// Buffers register themselves; a pointer into none of them has the empty range, and its first use is a fault.
class GlobalMemory {
 public:
  static GlobalMemory& instance();
  void add(const void* begin, std::size_t bytes);
  void remove(const void* begin);
  Range range_of(const void* pointer) const;

 private:
  std::map<std::uintptr_t, std::uintptr_t> ranges_;  // end by begin
};

// A buffer of the test's, filled with poison (0xFF) and followed by nothing that a kernel could reach. Pages are taken when touched, so it
// may be larger than memory.
class Buffer {
 public:
  explicit Buffer(std::size_t bytes, bool poison = true);
  ~Buffer();
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  void* data() const { return data_; }

 private:
  void* data_;
  std::size_t bytes_;
};

template <class T>
class Array : public Buffer {
 public:
  explicit Array(std::size_t count, bool poison = true) : Buffer(count * sizeof(T), poison), count_(count) {}
  T* data() const { return static_cast<T*>(Buffer::data()); }
  std::size_t size() const { return count_; }
  T& operator[](std::size_t i) const { return data()[i]; }
  T* begin() const { return data(); }
  T* end() const { return data() + count_; }

 private:
  std::size_t count_;
};

}  // namespace meristem::kernels::device::host
