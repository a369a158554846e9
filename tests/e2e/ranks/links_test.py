"""The network that tests of ranks run in: links are as slow as they were told, in both directions at once; a pulled cable stops everything and a plugged one
goes on; and nothing is left of it, whatever end its process took. Without the program."""

import os
import select
import signal
import subprocess
import sys
import time
import unittest
from pathlib import Path

import links

RECEIVE = """
import socket, sys, time
server = socket.create_server((sys.argv[1], int(sys.argv[2])))
print("listening", flush=True)
connection = server.accept()[0]
connection.settimeout(20)
count, begun = 0, None
while block := connection.recv(1 << 16):
    begun = begun or time.monotonic()
    count += len(block)
    if sys.argv[3:]:
        print(count, flush=True)
print(count, time.monotonic() - begun, flush=True)
"""
SEND = """
import socket, sys, time
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20)
end = time.monotonic() + float(sys.argv[3])
while time.monotonic() < end:
    connection.sendall(bytes(1 << 16))
"""
# Ethernet, IP and TCP with timestamps around 1448 bytes.
HEADERS = 1514 / 1448


class Case(unittest.TestCase):
    def setUp(self):
        self.links = links.Links(2)
        self.addCleanup(self.links.close)

    def start(self, host, script, *arguments):
        process = subprocess.Popen([*self.links.prefix(host), sys.executable, "-c", script, *map(str, arguments)], stdout=subprocess.PIPE, text=True)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait)
        self.addCleanup(lambda: process.poll() is None and process.kill())
        return process

    def flow(self, sender, port, seconds, *shown):
        """A receiver that listens and whoever sends to it."""
        receiver = self.start(1 - sender, RECEIVE, self.links.address(1 - sender), port, *shown)
        self.assertEqual(receiver.stdout.readline(), "listening\n")
        return receiver, self.start(sender, SEND, self.links.address(1 - sender), port, seconds)

    def rates(self, seconds=1.5):
        """Bits per second on the wire each way, both ways at once."""
        receivers = [self.flow(sender, 2000 + sender, seconds)[0] for sender in (0, 1)]
        numbers = [receiver.communicate(timeout=30)[0].split() for receiver in receivers]
        return [8 * HEADERS * int(count) / float(took) for count, took in numbers]

    def test_links_are_as_slow_as_they_were_told(self):
        for rate in (200e6, 50e6):
            self.links.limit(rate)
            slowest = 0
            for _ in range(3):  # a busy machine makes a flow slower, never faster
                found = self.rates()
                print(f"\n{rate / 1e6:.0f} Mbit/s: {found[0] / 1e6:.1f} and {found[1] / 1e6:.1f} at once", end=" ")
                self.assertLess(max(found), 1.05 * rate)
                slowest = max(slowest, min(found))
                if slowest > 0.85 * rate:
                    break
            self.assertGreater(slowest, 0.85 * rate)  # acknowledgements of the other way travel along
        self.links.unlimit()
        self.assertGreater(min(self.rates(0.5)), 1e9)

    def test_a_cable_is_pulled_and_plugged(self):
        self.links.limit(20e6)
        receiver, _ = self.flow(0, 2000, 3, "shown")
        file = receiver.stdout.fileno()

        def received(seconds):
            """Whether anything arrives in this time, but for the first fifth of a second, when what was under way still does."""
            time.sleep(0.2)
            while select.select([file], [], [], 0)[0]:
                os.read(file, 1 << 16)
            return bool(select.select([file], [], [], seconds)[0])

        self.assertTrue(received(0.2))
        self.links.down(1)
        self.assertFalse(received(0.6))
        self.links.up(1)
        self.assertTrue(received(1.5))

    def test_no_host_sees_what_is_outside(self):
        out = subprocess.run([*self.links.prefix(0), "ip", "-br", "link"], capture_output=True, text=True, check=True).stdout
        self.assertEqual(sorted(line.split()[0].split("@")[0] for line in out.splitlines()), [links.CARD, "lo"])

    def test_nothing_is_left_over_when_its_process_is_killed(self):
        script = f"import sys, time; sys.path.insert(0, {str(Path(__file__).parent)!r}); import links; l = links.Links(2); " \
                 "print(*(n.holder.pid for n in l.opened), flush=True); time.sleep(60)"
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        holders = [int(word) for word in process.stdout.readline().split()]
        self.assertEqual(len(holders), 3)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        deadline = time.monotonic() + 5
        while any(Path(f"/proc/{pid}/ns/net").exists() for pid in holders) and time.monotonic() < deadline:
            time.sleep(0.01)
        self.assertEqual([pid for pid in holders if Path(f"/proc/{pid}/ns/net").exists()], [])


if __name__ == "__main__":
    if reason := links.reason_against():
        print(f"skipped: {reason}")
        sys.exit(4)
    unittest.main(verbosity=2)
