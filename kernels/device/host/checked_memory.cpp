#include "device/host/checked_memory.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstring>
#include <new>

namespace meristem::kernels::device::host {
namespace {

constexpr std::uint32_t kManyLanes = 32, kWholeWarp = 33;

std::string hex(SharedAddress at) {
  char text[16];
  std::snprintf(text, sizeof text, "0x%x", at);
  return text;
}

}  // namespace

SharedMemory::SharedMemory(const Clocks& clocks, int bytes, int threads, bool detect)
    : clocks_(clocks), size_(bytes), warps_((threads + kWarp - 1) / kWarp), detect_(detect) {
  bytes_.resize(static_cast<std::size_t>(bytes + 15) / 16);
  std::memset(static_cast<void*>(bytes_.data()), kPoison, bytes_.size() * 16);
  words_.resize(bytes_.size() * 4);
  reads_.resize(words_.size() * static_cast<std::size_t>(warps_));
}

void SharedMemory::check_range(SharedAddress at, int bytes, const Site& site) const {
  if (at % static_cast<unsigned>(bytes) != 0) {
    throw Report(Fault::kMisaligned, "shared address " + hex(at) + " at " + name_of(site) + " is no multiple of " + std::to_string(bytes));
  }
  if (at < kBase || at + static_cast<unsigned>(bytes) > kBase + static_cast<unsigned>(size_)) {
    throw Report(Fault::kBounds, "shared address " + hex(at) + " at " + name_of(site) + " is outside the block's " + std::to_string(size_) +
                                     " bytes from " + hex(kBase));
  }
}

const void* SharedMemory::read(SharedAddress from, int bytes, Actor actor, const Site& site) {
  check_range(from, bytes, site);
  if (detect_) {
    const std::int16_t id = intern(site);
    for (std::size_t word = word_of(from); word <= word_of(from + static_cast<unsigned>(bytes) - 1); ++word) {
      check_not_in_flight(word, actor, site);
      check_after_write(word, actor, site, false);
      note_read(word, actor, id);
    }
  }
  return reinterpret_cast<const std::uint8_t*>(bytes_.data()) + (from - kBase);
}

void* SharedMemory::write(SharedAddress to, int bytes, Actor actor, const Site& site, bool atomic) {
  check_range(to, bytes, site);
  if (detect_) {
    const std::int16_t id = intern(site);
    for (std::size_t word = word_of(to); word <= word_of(to + static_cast<unsigned>(bytes) - 1); ++word) {
      check_not_in_flight(word, actor, site);
      check_after_write(word, actor, site, atomic);
      check_after_reads(word, actor, site);
      Word& shadow = words_[word];
      shadow = {clocks_.now(actor.warp()), static_cast<std::int16_t>(actor.thread), atomic, actor.whole_warp, shadow.copier, id,
                shadow.read_site};
    }
  }
  return reinterpret_cast<std::uint8_t*>(bytes_.data()) + (to - kBase);
}

void SharedMemory::begin_copy(SharedAddress to, int bytes, int thread, const Site& site) {
  std::memset(write(to, bytes, {thread}, site), kPoison, static_cast<std::size_t>(bytes));
  const std::size_t end = word_of(to) + static_cast<std::size_t>(bytes) / 4;
  for (std::size_t word = word_of(to); word < end; ++word) words_[word].copier = static_cast<std::int16_t>(thread);
}

void SharedMemory::land_copy(SharedAddress to, int bytes, int thread, const Vec4& value) {
  std::memcpy(reinterpret_cast<std::uint8_t*>(bytes_.data()) + (to - kBase), &value, static_cast<std::size_t>(bytes));
  const std::size_t end = word_of(to) + static_cast<std::size_t>(bytes) / 4;
  for (std::size_t word = word_of(to); word < end; ++word) {
    words_[word].copier = -1;
    words_[word].write_stamp = clocks_.now(thread / kWarp);
  }
}

void SharedMemory::check_not_in_flight(std::size_t word, Actor actor, const Site& site) const {
  const Word& shadow = words_[word];
  if (shadow.copier < 0) return;
  throw Report(Fault::kInFlight, "thread " + std::to_string(actor.thread) + " at " + name_of(site) + " touches shared address " +
                                     hex(kBase + 4 * static_cast<unsigned>(word)) + ", which a copy of thread " +
                                     std::to_string(shadow.copier) + " from " +
                                     name_of(sites_[static_cast<std::size_t>(shadow.write_site)]) + " has not reached yet");
}

void SharedMemory::check_after_write(std::size_t word, Actor actor, const Site& site, bool atomic) const {
  const Word& shadow = words_[word];
  if (shadow.writer < 0 || (atomic && shadow.atomic)) return;
  const bool own = shadow.writer == actor.thread && !shadow.whole_warp && !actor.whole_warp;
  if (own || clocks_.ordered(actor.warp(), shadow.writer / kWarp, shadow.write_stamp)) return;
  race(word, shadow.writer, shadow.write_site, "written", actor, site, "touched");
}

void SharedMemory::check_after_reads(std::size_t word, Actor actor, const Site& site) {
  for (int warp = 0; warp < warps_; ++warp) {
    const std::uint32_t read = last_read(word, warp), lane = read % 64;
    if (read == 0 || clocks_.ordered(actor.warp(), warp, read / 64)) continue;
    const bool own = warp == actor.warp() && (lane == kWholeWarp || (static_cast<int>(lane) == actor.thread % kWarp && !actor.whole_warp));
    if (!own) race(word, warp * kWarp + (lane < 32 ? static_cast<int>(lane) : 0), words_[word].read_site, "read", actor, site, "written");
  }
}

void SharedMemory::note_read(std::size_t word, Actor actor, std::int16_t site) {
  std::uint32_t& read = last_read(word, actor.warp());
  const std::uint32_t stamp = clocks_.now(actor.warp());
  std::uint32_t lane = actor.whole_warp ? kWholeWarp : static_cast<std::uint32_t>(actor.thread % kWarp);
  // A single lane's read weighs more than the warp's: only that one can race with its own warp.
  if (read / 64 == stamp && read % 64 != lane && read % 64 != kWholeWarp) lane = lane == kWholeWarp ? read % 64 : kManyLanes;
  read = stamp * 64 + lane;
  words_[word].read_site = site;
}

std::int16_t SharedMemory::intern(const Site& site) {
  for (std::size_t i = 0; i < sites_.size(); ++i) {
    if (sites_[i].line() == site.line() && sites_[i].file_name() == site.file_name()) return static_cast<std::int16_t>(i);
  }
  sites_.push_back(site);
  return static_cast<std::int16_t>(sites_.size() - 1);
}

void SharedMemory::race(std::size_t word, int first_thread, std::int16_t first_site, const char* first, Actor actor, const Site& site,
                        const char* second) const {
  throw Report(Fault::kRace, "race: shared address " + hex(kBase + 4 * static_cast<unsigned>(word)) + ", " + first + " by thread " +
                                 std::to_string(first_thread) + " at " + name_of(sites_[static_cast<std::size_t>(first_site)]) + ", is " +
                                 second + " by thread " + std::to_string(actor.thread) + " at " + name_of(site) +
                                 " with no barrier between");
}

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
