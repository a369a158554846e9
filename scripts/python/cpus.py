"""How many processes or threads fit into this process's share of the machine: the cores that it may run on, and what a cgroup's CPU quota leaves of
them (src/core/cpus.h says the same for the program)."""

import os
from pathlib import Path


def numbers(path, count):
    """The first words of a file as numbers; nothing where they are none ("max")."""
    try:
        values = [float(word) for word in path.read_text().split()[:count]]
    except (OSError, ValueError):
        return None
    return values if len(values) == count else None


def quota_of(group, version):
    """CPUs that a cgroup may use; None where it sets no quota."""
    if version == 2:
        found = numbers(group / "cpu.max", 2)
    else:
        quota, period = numbers(group / "cpu.cfs_quota_us", 1), numbers(group / "cpu.cfs_period_us", 1)
        found = quota and period and quota + period
    return found[0] / found[1] if found and min(found) > 0 else None


def groups_up_to(mount, path):
    """The cgroup and all those around it. In a container the path is often one of the host's, of which only the mount's own folder is seen."""
    groups = [mount]
    for part in path.split("/"):
        if part not in ("", ".", ".."):
            groups.append(groups[-1] / part)
    return groups


def cpu_quota(root=Path("/")):
    """The least quota of the cgroups of this process, of version 1 or 2; None without one. `root` stands before /proc/self/cgroup and /sys/fs/cgroup."""
    mounts, found = root / "sys/fs/cgroup", []
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    for line in lines:  # "0::/path" of version 2, "3:cpu,cpuacct:/path" of version 1
        _, _, rest = line.partition(":")
        controllers, colon, path = rest.partition(":")
        if colon and not controllers:
            found += [quota_of(group, 2) for mount in (mounts, mounts / "unified") for group in groups_up_to(mount, path)]
        elif "cpu" in controllers.split(","):
            found += [quota_of(group, 1) for mount in (mounts / controllers, mounts / "cpu") for group in groups_up_to(mount, path)]
    return min((quota for quota in found if quota), default=None)


def usable_cpus(root=Path("/")):
    """Whole ones, at least one."""
    cores, quota = len(os.sched_getaffinity(0)), cpu_quota(root)
    return cores if quota is None else max(1, min(cores, int(quota)))
