#include "core/cpus.h"

#include <algorithm>
#include <fstream>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include <malloc.h>

#include <fmt/format.h>

#include "core/text.h"

namespace meristem {
namespace {

namespace fs = std::filesystem;

// "max 100000" or "150000 100000": of a period of 100 ms, 150 ms on all CPUs together.
std::optional<double> quota_of_version_2(const fs::path& group) {
  std::ifstream in(group / "cpu.max");
  double quota = 0, period = 0;  // "max" is no number
  if (!(in >> quota >> period) || quota <= 0 || period <= 0) return std::nullopt;
  return quota / period;
}

// -1 where there is none.
std::optional<double> quota_of_version_1(const fs::path& group) {
  std::ifstream quota_in(group / "cpu.cfs_quota_us"), period_in(group / "cpu.cfs_period_us");
  double quota = 0, period = 0;
  if (!(quota_in >> quota) || !(period_in >> period) || quota <= 0 || period <= 0) return std::nullopt;
  return quota / period;
}

bool has_cpu(const std::string& controllers) {
  std::istringstream words(controllers);
  for (std::string word; std::getline(words, word, ',');) {
    if (word == "cpu") return true;
  }
  return false;
}

// The cgroup and all those around it. In a container the path is often one of the host's, of which only the mount's own folder is seen.
std::vector<fs::path> groups_up_to(const fs::path& mount, const std::string& path) {
  std::vector<fs::path> groups{mount};
  for (const fs::path& part : fs::path(path).relative_path()) {
    if (part != ".." && part != "." && !part.empty()) groups.push_back(groups.back() / part);
  }
  return groups;
}

}  // namespace

std::optional<CpuQuota> cpu_quota(const fs::path& root) {
  std::optional<CpuQuota> least;
  const auto take = [&least](std::optional<double> cpus, const fs::path& file) {
    if (cpus && (!least || *cpus < least->cpus)) least = CpuQuota{*cpus, file};
  };
  const fs::path mounts = root / "sys/fs/cgroup";
  std::ifstream in(root / "proc/self/cgroup");
  for (std::string line; std::getline(in, line);) {  // "0::/path" of version 2, "3:cpu,cpuacct:/path" of version 1
    const auto first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1), path = line.substr(second + 1);
    if (controllers.empty()) {
      for (const fs::path& mount : {mounts, mounts / "unified"}) {
        for (const fs::path& group : groups_up_to(mount, path)) take(quota_of_version_2(group), group / "cpu.max");
      }
    } else if (has_cpu(controllers)) {
      for (const fs::path& mount : {mounts / controllers, mounts / "cpu"}) {
        for (const fs::path& group : groups_up_to(mount, path)) take(quota_of_version_1(group), group / "cpu.cfs_quota_us");
      }
    }
  }
  return least;
}

int threads_within(const std::optional<CpuQuota>& quota, int cores) {
  const double whole = quota ? std::min(quota->cpus, static_cast<double>(cores)) : cores;
  return std::max(1, static_cast<int>(whole));
}

std::string threads_text(int threads, const std::optional<CpuQuota>& quota) {
  const std::string count = fmt::format("{} {}", threads, threads == 1 ? "thread" : "threads");
  return quota ? fmt::format("{}, CPU quota {} ({})", count, number_text(quota->cpus), quota->file.string()) : count;
}

void keep_freed_memory() {
  mallopt(M_MMAP_THRESHOLD, 32 << 20);
  mallopt(M_TRIM_THRESHOLD, 256 << 20);
  mallopt(M_ARENA_MAX, 1);  // arenas of other threads give memory back a heap at a time, whatever the threshold
}

}  // namespace meristem
