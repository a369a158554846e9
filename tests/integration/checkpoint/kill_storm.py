"""SIGKILL at random moments of a loop that saves and rotates checkpoints: every published one is whole, the newest never goes back, and
leftovers do not pile up. With a planted fault (published before its data is complete) the same storm must fail."""

import argparse
import random
import signal
import subprocess
import tempfile
import time
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("driver")
parser.add_argument("--kills", type=int, default=60)
parser.add_argument("--seed", type=int, default=1)
options = parser.parse_args()


def start(driver, folder):
    return subprocess.Popen([*driver, "loop", folder], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def period_of(driver):
    """Seconds from one checkpoint to the next, here and now."""
    with tempfile.TemporaryDirectory() as temporary, start(driver, Path(temporary)) as process:
        process.stdout.readline()
        begun = time.monotonic()
        for _ in range(5):
            process.stdout.readline()
        process.kill()
        return (time.monotonic() - begun) / 5


def storm(driver, kills, period):
    """(None or the first failure, kills that hit a write, newest step)."""
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "checkpoints"
        newest, inside = -1, 0
        for kill in range(kills):
            process = start(driver, folder)
            process.stdout.readline()  # it is about to write
            time.sleep(draw.uniform(0.0, 3 * period))  # the moment of the kill is what is drawn: nothing is waited for
            process.send_signal(signal.SIGKILL)
            stderr = process.communicate()[1]
            if process.returncode != -signal.SIGKILL:
                return f"kill {kill}: the loop ended by itself ({process.returncode}): {stderr}", inside, newest
            inside += any(".tmp-" in p.name for p in folder.glob("step-*"))
            check = subprocess.run([*driver, "verify", folder], capture_output=True, text=True)
            if check.returncode != 0:
                return f"kill {kill}: {check.stderr.strip()}", inside, newest
            if int(check.stdout) < newest:
                return f"kill {kill}: step {newest} was published and is gone", inside, newest
            newest = int(check.stdout)
        # A save that ends sweeps up what kills have left: after two of them only what this last kill interrupts may lie about.
        process = start(driver, folder)
        for _ in range(4):
            process.stdout.readline()
        process.kill()
        process.communicate()
        leftovers = [p.name for p in folder.glob("*") if ".tmp-" in p.name or p.name.startswith(".trash-")]
        if len(leftovers) > 2:
            return f"leftovers of {kills} kills pile up: {leftovers}", inside, newest
        return None, inside, newest


period = period_of([options.driver])
failure, inside, newest = storm([options.driver], options.kills, period)
print(f"a checkpoint every {1000 * period:.1f} ms; {options.kills} kills, {inside} inside a write, newest step {newest}:")
print(f"  {failure or 'every published checkpoint was whole'}")
assert failure is None
assert inside >= options.kills // 10, "too few kills hit a write to prove anything"
failure, inside, newest = storm([options.driver, "published-first"], options.kills, period)
print(f"planted bug: {failure}")
assert failure is not None, "the storm does not see a folder that is published before its data is complete"
