"""Whatever befalls a job of several ranks, the launcher starts it again and it ends bit-equal to one that nobody disturbed, its metrics.jsonl included; no rank
hangs, no checkpoint is damaged, nothing is lost past the last one. Three jobs at a time, one of them on a small disk, one on hosts of its own.

    chaos_test.py PROGRAM                              ten events, each kind at least once
    chaos_test.py PROGRAM --long [--events N] [--seed N]    as many, drawn
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import elastic
import links
import ranks
import storm
import tiny_run
from bad_disks import can_mount

# What nobody may notice comes last: a run may come to its end before it is certain that nobody did.
SCRIPT = ((elastic.KillInWrite, elastic.FullDisk, elastic.Term, elastic.KillAtGrowth), (elastic.Cable, elastic.Kill, elastic.Flap),
          (elastic.Freeze, elastic.KillAtGrowth, elastic.KillAll, elastic.Pause))
STEPS_OF_SCRIPT = (3, 16, 28, 38)  # from when on the first, second, … may come
DISK = "120m"


class Chaos:
    def __init__(self, program, root, events, seed, scripted):
        self.program, self.root, self.scripted, self.draw = program, root, scripted, random.Random(seed)
        self.left, self.lock, self.tally, self.failures, self.runs = events, threading.Lock(), elastic.Tally(), [], 0
        self.with_links, self.with_disk = links.reason_against() is None, os.geteuid() == 0 and can_mount()
        config = tiny_run.write_config(root, "undisturbed", "undisturbed.yaml")
        ranks.train(program, config, *elastic.SETTINGS, world=2)
        self.reference = root / "undisturbed" / "tiny"

    def lane(self, number):
        try:
            if number == 1 and self.with_links:
                with links.Links(2) as network:
                    self.jobs(number, network)
            else:
                self.jobs(number, None)
        except Exception as failure:  # noqa: BLE001: a thread's own end is not seen
            self.failures.append(f"lane {number}: {failure!r}")

    def jobs(self, number, network):
        out = self.root / f"lane-{number}"
        out.mkdir()
        if number == 0 and self.with_disk:
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "none", str(out)], check=True)
        job = 0
        while self.left > 0 and not self.failures:
            self.job(number, job, out / f"job-{job}", network)
            job += 1  # scripted: the same again where a run ended before its last event

    def job(self, number, count, out, network):
        out.mkdir()
        name = f"job-{number}-{count}"
        config = tiny_run.write_config(self.root, out.relative_to(self.root), f"{name}.yaml")
        job = elastic.Elastic(self.program, config, out / "tiny", self.root / "logs" / name, links=network)
        try:
            for kind, step in self.plan(number, network):
                with self.lock:
                    draw = random.Random(self.draw.random())
                begun = time.monotonic()
                if not kind(job, draw, step).happen():
                    break
                with self.lock:
                    self.tally[kind.__name__] += 1
                    self.left -= 1
                    print(f"{name}: {kind.__name__} after step {step}: {time.monotonic() - begun:.1f} s", flush=True)
            job.until(job.ended, 60 + elastic.DEADLINE, f"{name}: its end")
            if job.process.returncode != 0:
                raise elastic.Fault(f"{name}: torchrun ended with {job.process.returncode}: {job.said()}")
            if found := storm.difference(job.folder, self.reference):
                raise elastic.Fault(f"{name}: {found}")
            self.runs += 1
        finally:
            job.stop()
        subprocess.run(["rm", "-r", str(out)], check=True)

    def plan(self, number, network):
        """Kinds of events, and from which update on."""
        if self.scripted:
            kinds = [kind for kind in SCRIPT[number] if self.possible(kind, number, network)]
            return list(zip(kinds, STEPS_OF_SCRIPT))
        kinds = [*elastic.ANYWHERE, *([elastic.FullDisk] * (number == 0 and self.with_disk)), *([elastic.Cable, elastic.Flap] * (network is not None))]
        weights = [0.3 if kind in (elastic.Freeze, elastic.Pause, elastic.Flap, elastic.Cable) else 1 for kind in kinds]
        drawn, step = [], 0
        while step < tiny_run.STEPS - 3:
            drawn.append((self.draw.choices(kinds, weights)[0], step))
            step += self.draw.randrange(1, 14)
        return drawn

    def possible(self, kind, number, network):
        return network is not None if kind in (elastic.Cable, elastic.Flap) else self.with_disk if kind is elastic.FullDisk else True

    def run(self):
        lanes = [threading.Thread(target=self.lane, args=(number,)) for number in range(3)]
        for lane in lanes:
            lane.start()
        for lane in lanes:
            lane.join()


def in_a_mount_namespace_of_its_own():
    """So that the small disk goes with this process, however it ends."""
    if os.geteuid() == 0 and can_mount() and "MERISTEM_CHAOS" not in os.environ:
        os.environ["MERISTEM_CHAOS"] = "inside"
        os.execvp("unshare", ["unshare", "-m", sys.executable, *sys.argv])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--events", type=int, default=200, help="with --long: so many at least")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    in_a_mount_namespace_of_its_own()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        chaos = Chaos(options.program, Path(temporary), options.events if options.long else 10, options.seed, not options.long)
        chaos.run()
        if chaos.with_disk:
            subprocess.run(["umount", "-l", str(Path(temporary) / "lane-0")], check=False)
    print(f"{chaos.tally.total()} events over {chaos.runs} finished runs: {dict(chaos.tally)}; {time.monotonic() - begun:.0f} s")
    assert not chaos.failures, "\n".join(chaos.failures)
    if chaos.with_links and chaos.with_disk:
        assert chaos.tally.total() >= (options.events if options.long else 10), chaos.tally
        if options.long:
            few = [kind.__name__ for kind in (*elastic.ANYWHERE, elastic.FullDisk, elastic.Cable, elastic.Flap) if chaos.tally[kind.__name__] < 3]
            assert not few, f"too few events of these kinds to prove anything: {few}"
        return 0
    print(f"skipped: links that go down and full disks: {links.reason_against()}")
    return 4


if __name__ == "__main__":
    sys.exit(main())
