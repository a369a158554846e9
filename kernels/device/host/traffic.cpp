#include "device/host/traffic.h"

#include <algorithm>
#include <array>
#include <set>

namespace meristem::kernels::device::host {

int bank_conflicts(const std::uint64_t* addresses, std::uint32_t active, int bytes) {
  const int lanes = bytes <= 4 ? 32 : 128 / bytes;
  int extra = 0;
  for (int first = 0; first < 32; first += lanes) {
    std::array<std::array<std::uint64_t, 32>, 32> words;  // by bank
    std::array<int, 32> count{};
    for (int lane = first; lane < first + lanes; ++lane) {
      if ((active >> lane & 1) == 0) continue;
      for (std::uint64_t word = addresses[lane] / 4; word <= (addresses[lane] + static_cast<std::uint64_t>(bytes) - 1) / 4; ++word) {
        const std::size_t bank = word % 32;
        const auto begin = words[bank].begin(), end = begin + count[bank];
        if (std::find(begin, end, word) == end) words[bank][static_cast<std::size_t>(count[bank]++)] = word;
      }
    }
    extra += std::max(0, *std::max_element(count.begin(), count.end()) - 1);
  }
  return extra;
}

std::map<std::string, LineTraffic> by_line(const Traffic& traffic) {
  std::map<std::string, LineTraffic> lines;
  for (const auto& [site, counted] : traffic) {
    const std::string file = site.first;
    LineTraffic& line = lines[file.substr(file.rfind('/') + 1) + ":" + std::to_string(site.second)];
    line.shared_accesses += counted.shared_accesses;
    line.bank_conflicts += counted.bank_conflicts;
    line.global_accesses += counted.global_accesses;
    line.sectors += counted.sectors;
    line.ideal_sectors += counted.ideal_sectors;
  }
  return lines;
}

void WarpTraffic::access(Traffic& traffic, const Site& site, int lane, std::uint64_t address, int bytes, bool shared) {
  const std::uint32_t bit = 1u << lane;
  auto open = std::find_if(open_.begin(), open_.end(), [&](const Open& entry) {
    return (entry.active & bit) == 0 && entry.site.line() == site.line() && entry.bytes == bytes && entry.shared == shared &&
           entry.site.file_name() == site.file_name();
  });
  if (open == open_.end()) open = open_.insert(open_.end(), Open{site, 0, bytes, shared, {}});
  open->active |= bit;
  open->address[lane] = address;
  if (open->active != 0xFFFFFFFFu) return;
  count(traffic, *open);
  open_.erase(open);
}

void WarpTraffic::meet(Traffic& traffic) {
  for (const Open& open : open_) count(traffic, open);
  open_.clear();
}

void WarpTraffic::count(Traffic& traffic, const Open& open) {
  LineTraffic& line = traffic[{open.site.file_name(), open.site.line()}];
  if (open.shared) {
    ++line.shared_accesses;
    line.bank_conflicts += bank_conflicts(open.address, open.active, open.bytes);
    return;
  }
  std::set<std::uint64_t> sectors, distinct;
  for (int lane = 0; lane < 32; ++lane) {
    if ((open.active >> lane & 1) == 0) continue;
    const std::uint64_t last = open.address[lane] + static_cast<std::uint64_t>(open.bytes) - 1;
    for (std::uint64_t sector = open.address[lane] / 32; sector <= last / 32; ++sector) sectors.insert(sector);
    distinct.insert(open.address[lane]);
  }
  ++line.global_accesses;
  line.sectors += static_cast<std::int64_t>(sectors.size());
  line.ideal_sectors += (static_cast<std::int64_t>(distinct.size()) * open.bytes + 31) / 32;
}

}  // namespace meristem::kernels::device::host
