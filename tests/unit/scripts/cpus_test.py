"""Workers and ranks within a cgroup's CPU quota: the files of a machine in a folder, of both versions of cgroups."""

import os
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "support"))

from text_commands import FolderCase  # noqa: E402
import cpus  # noqa: E402

CPU_MAX = "sys/fs/cgroup/jobs/mine/cpu.max"


class Quota(FolderCase):
    def quota(self):
        return cpus.cpu_quota(self.folder)

    def test_none(self):
        self.assertIsNone(self.quota())
        self.file("proc/self/cgroup", "0::/jobs/mine\n")
        self.assertIsNone(self.quota())
        for text in ("max 100000", "", "100000", "0 100000", "-1 100000", "100000 0", "x y"):
            self.file(CPU_MAX, text)
            self.assertIsNone(self.quota(), text)
        self.assertEqual(cpus.usable_cpus(self.folder), len(os.sched_getaffinity(0)))

    def test_version_2_the_least_of_all_around(self):
        self.file("proc/self/cgroup", "0::/jobs/mine\n")
        self.file("sys/fs/cgroup/jobs/cpu.max", "250000 100000")
        self.assertEqual(self.quota(), 2.5)
        self.file(CPU_MAX, "50000 100000")
        self.assertEqual(self.quota(), 0.5)
        self.assertEqual(cpus.usable_cpus(self.folder), 1)

    def test_in_a_container_the_mounted_folder_says_it(self):
        self.file("proc/self/cgroup", "0::/../../pod/container\n")
        self.file("sys/fs/cgroup/cpu.max", "200000 50000")
        self.assertEqual(self.quota(), 4)

    def test_version_1(self):
        for mount in ("cpu", "cpu,cpuacct"):
            with self.subTest(mount):
                self.file("proc/self/cgroup", f"7:memory:/a\n3:{mount}:/a/b\n2:cpuset:/a\n0::/\n")
                self.file(f"sys/fs/cgroup/{mount}/a/cpu.cfs_period_us", "100000\n")
                self.file(f"sys/fs/cgroup/{mount}/a/cpu.cfs_quota_us", "-1\n")
                self.assertIsNone(self.quota())
                self.file(f"sys/fs/cgroup/{mount}/a/cpu.cfs_quota_us", "300000\n")
                self.assertEqual(self.quota(), 3)
                self.file(f"sys/fs/cgroup/{mount}/a/cpu.cfs_quota_us", "-1\n")

    def test_a_wide_quota_gives_the_cores(self):
        self.file("proc/self/cgroup", "0::/\n")
        self.file("sys/fs/cgroup/cpu.max", "99900000 100000")
        self.assertEqual(cpus.usable_cpus(self.folder), len(os.sched_getaffinity(0)))


if __name__ == "__main__":
    unittest.main()
