#include "metrics/idle.h"

#include <algorithm>

namespace meristem {

double idle_share(std::vector<BusyInterval> busy) {
  if (busy.empty()) return 0;
  std::sort(busy.begin(), busy.end(), [](const BusyInterval& a, const BusyInterval& b) { return a.begin < b.begin; });
  std::int64_t idle = 0, until = busy.front().begin;
  for (const BusyInterval& one : busy) {
    idle += std::max<std::int64_t>(0, one.begin - until);
    until = std::max(until, one.end);
  }
  const std::int64_t all = until - busy.front().begin;
  return all > 0 ? static_cast<double>(idle) / static_cast<double>(all) : 0;
}

}  // namespace meristem
