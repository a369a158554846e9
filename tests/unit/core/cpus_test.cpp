#include "core/cpus.h"

#include <fstream>
#include <string>

#include "support/catch.h"
#include "support/temp_dir.h"

using namespace meristem;
using meristem::test::TempDir;

namespace {

// A machine's /proc and /sys as far as cgroups go.
class Machine {
 public:
  Machine& file(const std::string& path, const std::string& text) {
    const auto place = folder_ / path;
    std::filesystem::create_directories(place.parent_path());
    std::ofstream(place) << text;
    return *this;
  }
  double cpus() const {
    const auto quota = cpu_quota(folder_.path());
    return quota ? quota->cpus : 0;
  }
  std::string named() const { return cpu_quota(folder_.path())->file.lexically_relative(folder_.path()).string(); }

 private:
  TempDir folder_;
};

}  // namespace

TEST_CASE("a CPU quota of cgroup version 2 is the least of those around the process") {
  Machine machine;
  CHECK(machine.cpus() == 0);  // no cgroups at all
  machine.file("proc/self/cgroup", "0::/jobs/mine\n");
  CHECK(machine.cpus() == 0);
  machine.file("sys/fs/cgroup/jobs/mine/cpu.max", "max 100000\n");
  CHECK(machine.cpus() == 0);
  machine.file("sys/fs/cgroup/jobs/cpu.max", "250000 100000\n");
  CHECK(machine.cpus() == 2.5);
  CHECK(machine.named() == "sys/fs/cgroup/jobs/cpu.max");
  machine.file("sys/fs/cgroup/jobs/mine/cpu.max", "50000 100000\n");
  CHECK(machine.cpus() == 0.5);
}

TEST_CASE("in a container the quota stands in the folder that is mounted, whatever the path says") {
  Machine machine;
  machine.file("proc/self/cgroup", "0::/../../pod12/container\n").file("sys/fs/cgroup/cpu.max", "200000 50000\n");
  CHECK(machine.cpus() == 4);
}

TEST_CASE("a CPU quota of cgroup version 1, where the controller has one of several names") {
  for (const std::string mount : {"cpu", "cpu,cpuacct", "cpuacct,cpu"}) {
    Machine machine;
    machine.file("proc/self/cgroup", "7:memory:/a\n3:" + mount + ":/a/b\n2:cpuset:/a\n0::/\n");
    machine.file("sys/fs/cgroup/" + mount + "/a/cpu.cfs_period_us", "100000\n")
        .file("sys/fs/cgroup/" + mount + "/a/cpu.cfs_quota_us", "-1\n");
    CHECK(machine.cpus() == 0);
    machine.file("sys/fs/cgroup/" + mount + "/a/cpu.cfs_quota_us", "300000\n");
    CHECK(machine.cpus() == 3);
  }
  Machine other;  // cpuset and cpuacct set no quota
  other.file("proc/self/cgroup", "2:cpuset,cpuacct:/a\n").file("sys/fs/cgroup/cpuset,cpuacct/a/cpu.cfs_quota_us", "100000\n");
  other.file("sys/fs/cgroup/cpuset,cpuacct/a/cpu.cfs_period_us", "100000\n");
  CHECK(other.cpus() == 0);
}

TEST_CASE("broken files of a cgroup are no quota") {
  for (const std::string text : {"", "max", "100000", "0 100000", "-5 100000", "100000 0", "x y"}) {
    Machine machine;
    machine.file("proc/self/cgroup", "0::/a\nbroken\n:\n").file("sys/fs/cgroup/a/cpu.max", text);
    INFO(text);
    CHECK(machine.cpus() == 0);
  }
}

TEST_CASE("threads stay within the quota and within the cores") {
  CHECK(threads_within({}, 8) == 8);
  CHECK(threads_within(CpuQuota{2.5, ""}, 8) == 2);
  CHECK(threads_within(CpuQuota{0.5, ""}, 8) == 1);
  CHECK(threads_within(CpuQuota{16, ""}, 8) == 8);
  CHECK(threads_within(CpuQuota{1e12, ""}, 8) == 8);
}
