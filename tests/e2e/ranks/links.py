"""Hosts on one switch, each a network namespace with one network card, for ranks that shall meet a slow link or a cable that is pulled.

The host of rank r has the address 10.91.0.(r + 1) on its card eth0; the switch, a namespace of its own with a bridge in it, has 10.91.0.254. Nothing of
this is seen from outside, so any number of such networks may stand side by side. A namespace lives as long as a process in it: a holder that waits for
the end of its input, which comes with the end of this process, however it ends. So nothing is ever left over.
"""

import contextlib
import functools
import os
import subprocess

CARD = "eth0"
SWITCH = "10.91.0.254"
TOOLS = 20  # seconds that a call of ip, tc, unshare may take
BURST = 128 << 10  # bytes that a limited link lets through at once: two of the largest packets that veth carries


def reason_against():
    """Why there can be no namespaces here, None where there can be."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    return _reason_against()


@functools.cache
def _reason_against():
    tried = ("ip link add name a type veth peer name b && ip link add name c type bridge && "
             "tc qdisc add dev a root tbf rate 1mbit burst 128kb latency 50ms")
    try:
        done = subprocess.run(["unshare", "-n", "nsenter", "--version"], capture_output=True, timeout=TOOLS)
        done = done if done.returncode else subprocess.run(["unshare", "-n", "sh", "-c", tried], capture_output=True, text=True, timeout=TOOLS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"no network namespaces here: {error}"
    return f"no network namespaces with limited links here: {done.stderr.strip()}" if done.returncode else None


class Namespace:
    def __init__(self):
        self.holder = subprocess.Popen(["unshare", "-n", "sh", "-c", "echo in && exec cat > /dev/null"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.holder.stdout.readline() == "in\n", "unshare -n"
        self.do("ip", "link", "set", "lo", "up")

    def prefix(self):
        """The words before a command that shall run in here. The process that they start is the command's own, with its id."""
        return ["nsenter", f"--net=/proc/{self.holder.pid}/ns/net", "--"]

    def do(self, *words):
        done = subprocess.run([*self.prefix(), *map(str, words)], capture_output=True, text=True, timeout=TOOLS)
        assert done.returncode == 0, f"{' '.join(map(str, words))}: {done.stderr.strip()}"

    def close(self):
        """It is gone when the last process in it is."""
        with contextlib.suppress(OSError):
            self.holder.stdin.close()
        self.holder.wait(TOOLS)
        self.holder.stdout.close()


class Links:
    """`count` hosts on a switch. `rate`: bits per second of each link in each direction; None: no limit."""

    def __init__(self, count, rate=None):
        self.limited, self.opened = False, []
        try:
            self.switch = self._namespace()
            self.switch.do("ip", "link", "add", "name", "bridge", "type", "bridge")
            self.switch.do("ip", "address", "add", f"{SWITCH}/24", "dev", "bridge")
            self.switch.do("ip", "link", "set", "bridge", "up")
            self.hosts = [self._host(rank) for rank in range(count)]
            if rate:
                self.limit(rate)
        except BaseException:
            self.close()
            raise

    def _namespace(self):
        self.opened.append(Namespace())
        return self.opened[-1]

    def _host(self, rank):
        host, port = self._namespace(), f"port{rank}"
        self.switch.do("ip", "link", "add", "name", port, "type", "veth", "peer", "name", CARD, "netns", host.holder.pid)
        self.switch.do("ip", "link", "set", port, "master", "bridge", "up")
        host.do("ip", "address", "add", f"{self.address(rank)}/24", "dev", CARD)
        host.do("ip", "link", "set", CARD, "up")
        return host

    @staticmethod
    def address(rank):
        return f"10.91.0.{rank + 1}"

    def prefix(self, rank):
        return self.hosts[rank].prefix()

    def environment(self):
        return {"MASTER_ADDR": self.address(0), "GLOO_SOCKET_IFNAME": CARD}

    def limit(self, rate):
        """Bits per second of each link in each direction from now on, headers included."""
        how = ("root", "tbf", "rate", f"{int(rate)}bit", "burst", BURST, "latency", "100ms")
        for rank, host in enumerate(self.hosts):
            host.do("tc", "qdisc", "replace", "dev", CARD, *how)
            self.switch.do("tc", "qdisc", "replace", "dev", f"port{rank}", *how)
        self.limited = True

    def unlimit(self):
        for rank, host in enumerate(self.hosts if self.limited else []):
            host.do("tc", "qdisc", "del", "dev", CARD, "root")
            self.switch.do("tc", "qdisc", "del", "dev", f"port{rank}", "root")
        self.limited = False

    def down(self, rank):
        """Pulls the cable of a rank out of the switch: its card stays up, without a carrier."""
        self.switch.do("ip", "link", "set", f"port{rank}", "down")

    def up(self, rank):
        self.switch.do("ip", "link", "set", f"port{rank}", "up")

    def close(self):
        while self.opened:
            self.opened.pop().close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
