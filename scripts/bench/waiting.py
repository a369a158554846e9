"""How threads wait for each other (OpenMP's spinning), by what it costs: tokens per second of short runs under each policy, which alternate, alone and beside as
many busy processes as there are cores, whose fair share is a half. Prints medians over the rounds and, in brackets, the spread.

A policy is a number, GOMP_SPINCOUNT: turns of a loop before a thread that waits gives its core back; `library` leaves it to libgomp, `passive` does not spin.
--require A B: exit code 1 where the chosen policy (the one that scripts/meristem sets) loses more than the share A alone, against the fastest policy, or keeps less than B of
its own rate beside busy processes."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CHOSEN = os.environ.get("GOMP_SPINCOUNT", "library")  # as scripts/lib/paths.sh has set it


def environment_of(policy):
    environment = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    if policy == "passive":
        environment["OMP_WAIT_POLICY"] = "PASSIVE"
    elif policy != "library":
        environment["GOMP_SPINCOUNT"] = policy
    return environment


def rate(policy, updates, folder):
    """Tokens per second over the second half of a run."""
    name = f"run-{len(list(folder.iterdir()))}"
    command = [os.environ["MERISTEM_BINARY"], "train", str(ROOT / "configs" / "quickstart.yaml"), "growth=null", f"schedule.steps={updates}", "schedule.warmup=5", "schedule.decay.from_step=5",
               "data.validation={}", "checkpoint.every=0", "logging.every=1", "logging.sample_tokens=0", "logging.tensorboard=false", f"run.out={folder}", f"run.name={name}"]
    done = subprocess.run(command, env=environment_of(policy), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: {done.stderr.strip()}")
    lines = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "tokens_per_second" in line]
    return statistics.median(line["tokens_per_second"] for line in steps[len(steps) // 2 :])


class Busy:
    """Processes that do nothing but compute, one a core."""

    def __enter__(self):
        self.processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in os.sched_getaffinity(0)]

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policies", default=f"library,passive,{CHOSEN}", help="separated by commas (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=60, help="of each run (default: %(default)s)")
    parser.add_argument("--require", type=float, nargs=2, metavar=("A", "B"))
    options = parser.parse_args()
    policies = list(dict.fromkeys(options.policies.split(",")))
    alone, beside = ({policy: [] for policy in policies} for _ in range(2))
    with tempfile.TemporaryDirectory() as scratch:
        for _ in range(options.rounds):
            for policy in policies:
                alone[policy].append(rate(policy, options.updates, Path(scratch)))
            with Busy():
                for policy in policies:
                    beside[policy].append(rate(policy, options.updates, Path(scratch)))
    best = max(statistics.median(rates) for rates in alone.values())
    print(f"{'policy':>10}  {'alone':>22}  of the best  {'beside busy processes':>24}  kept")
    for policy in policies:
        one, other = statistics.median(alone[policy]), statistics.median(beside[policy])
        print(f"{policy:>10}  {one:8.0f} ({min(alone[policy]):.0f}-{max(alone[policy]):.0f})  {one / best:11.3f}  {other:10.0f} ({min(beside[policy]):.0f}-{max(beside[policy]):.0f})  {other / one:.2f}")
        if options.require and policy == CHOSEN and (one / best < 1 - options.require[0] or other / one < options.require[1]):
            sys.exit(f"GOMP_SPINCOUNT {policy}: loses {1 - one / best:.1%} alone, keeps {other / one:.0%}; required: at most {options.require[0]:.0%}, at least {options.require[1]:.0%}")


if __name__ == "__main__":
    main()
