// How a process uses a CPU. How many processors it has: those that it may run on, and what a cgroup's CPU quota leaves of them. A container
// with a quota of two CPUs on a machine of 64 cores sees 64; with as many threads it is stopped for most of every tenth of a second. And
// the memory that it keeps.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

namespace meristem {

struct CpuQuota {
  double cpus = 0;             // > 0: seconds of processor time a second
  std::filesystem::path file;  // that says so
};

// The least quota among the cgroup of this process and those around it, of version 1 or 2; nothing where none is set, or where it cannot be
// read. `root` stands before /proc/self/cgroup and /sys/fs/cgroup: a test's own folder.
std::optional<CpuQuota> cpu_quota(const std::filesystem::path& root = "/");

// Threads that stay within the quota: its whole CPUs, at least one, at most `cores`.
int threads_within(const std::optional<CpuQuota>& quota, int cores);

// "2 threads", and the quota where there is one.
std::string threads_text(int threads, const std::optional<CpuQuota>& quota);

// For a program's start: freed memory stays with the process. A step or pass frees what the next one allocates; given back to the system in
// between, every page of it is cleared anew, which costs a small model on a CPU 4 % of its training and a tenth of its generation and
// scoring.
void keep_freed_memory();

}  // namespace meristem
