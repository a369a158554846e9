"""SIGKILL again and again, `--resume auto` each time, until the run is done: it must end bit-equal to one that nobody disturbed, its metrics.jsonl
included.

    storm.py PROGRAM [--kills N] [--seed N] [--long]     the storm; --long: with so many kills that where they hit can be asked
    storm.py PROGRAM --planted FAULTY_RUN                it sees planted faults: a loader whose position is dropped on resume, a checkpoint published
                                                         before its data is written
"""

import argparse
import json
import random
import signal
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tiny_run


@dataclass
class Tally:
    kills: int = 0
    runs: int = 0
    inside_write: int = 0  # a pending folder stood there at the kill
    near_growth: int = 0   # this process wrote to the log, and its last step is within one of a growth
    before_training: int = 0  # the log was not touched yet

    def __str__(self):
        return (f"{self.kills} kills over {self.runs} finished runs: {self.inside_write} inside a checkpoint write, "
                f"{self.near_growth} within one step of a growth, {self.before_training} before the log was touched")


def undisturbed(program, folder):
    config = tiny_run.write_config(folder, "undisturbed", "undisturbed.yaml")
    code, _, err = tiny_run.run(program, "train", config)
    assert code == 0, err
    return folder / "undisturbed" / "tiny"


def near_growth(step):
    return any(abs(step - growth) <= 1 for growth in tiny_run.GROWTHS)


def log_stamp(folder):
    try:
        found = (folder / "metrics.jsonl").stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def moment(draw, begun, folder):
    """A condition, drawn: the kill comes when it first holds."""
    kind = draw.choices(("clock", "write", "growth"), (3, 4, 4))[0]
    if kind == "clock":
        at = begun + draw.uniform(0.0, 0.7)
        return lambda: time.monotonic() >= at
    if kind == "write":
        first = tiny_run.last_step(folder) + draw.randrange(0, 25)
        return lambda: tiny_run.pending(folder) and tiny_run.last_step(folder) >= first
    growth, offset = draw.choice(tiny_run.GROWTHS), draw.choice((-1, 0, 1))
    wait = draw.uniform(0, 0.004)

    def reached():
        if tiny_run.last_step(folder) < growth + offset:
            return False
        time.sleep(wait)  # somewhere in the step, not always at its end
        return True

    return reached


def killed_once(program, config, folder, draw, tally):
    """Starts or goes on and kills at a drawn moment. True where the run came to its end first; a string says what went wrong."""
    leftovers = set(tiny_run.pending(folder))
    before = log_stamp(folder)
    begun = time.monotonic()
    process = tiny_run.start(program, "train", config, "--resume", "auto")
    holds = moment(draw, begun, folder)
    while process.poll() is None and not holds():
        time.sleep(0.0005)
    process.send_signal(signal.SIGKILL)
    err = process.communicate()[1]
    if process.returncode == 0:
        return True
    if process.returncode != -signal.SIGKILL:
        return f"ended by itself with {process.returncode}: {err.strip().splitlines()[-1:]}"
    if "DAMAGED" in err:
        return next(line for line in err.splitlines() if "DAMAGED" in line)
    tally.kills += 1
    tally.inside_write += bool(set(tiny_run.pending(folder)) - leftovers)
    touched = log_stamp(folder) != before
    tally.near_growth += touched and near_growth(tiny_run.last_step(folder))
    tally.before_training += not touched
    return False


def trouble_after_a_kill(folder):
    for checkpoint in tiny_run.published(folder):
        if trouble := tiny_run.trouble_of(checkpoint):
            return trouble
    damaged = [path.name for path in (folder / "checkpoints").glob("*.damaged-*")]
    return f"set aside as damaged: {damaged}" if damaged else None


def difference(folder, reference):
    """What differs in a finished run, None where nothing does."""
    found, expected = tiny_run.numbers(folder), tiny_run.numbers(reference)
    for a, b in zip(found, expected):
        if a != b:
            return f"metrics.jsonl: {json.dumps(a)} in place of {json.dumps(b)}"
    if len(found) != len(expected):
        return f"metrics.jsonl: {len(found)} lines in place of {len(expected)}"
    steps = [line["step"] for line in found if "event" not in line]
    if steps != [str(step) for step in range(1, tiny_run.STEPS + 1)]:
        return f"metrics.jsonl: not each step once: {steps}"
    saved = [line for line in map(json.loads, tiny_run.lines(folder)) if line.get("event") == "checkpoint"]
    if len({line["step"] for line in saved}) != len(saved):
        return "metrics.jsonl: a checkpoint is there twice"
    last, other = tiny_run.published(folder)[-1], tiny_run.published(reference)[-1]
    if last.name != other.name:
        return f"{last}: the last checkpoint, {other.name} is expected"
    for name in ("model.safetensors", *(path.name for path in sorted(other.glob("optimizer-*.safetensors")))):
        if (last / name).read_bytes() != (other / name).read_bytes():
            return f"{last / name}: other bytes than without a kill"
    if left := tiny_run.pending(folder):
        return f"pending folders are left over: {left}"
    return None


def storm(program, reference, config_of, kills, seed, tally=None):
    """None, or the first failure. config_of(number) gives each run's config and folder."""
    draw = random.Random(seed)
    tally = tally or Tally()
    while tally.kills < kills or tally.runs == 0:
        config, folder = config_of(tally.runs)
        finished = False
        while not finished:
            if tally.kills >= kills:  # enough: let it come to its end
                code, _, err = tiny_run.run(program, "train", config, "--resume", "auto")
                finished = code == 0 or f"ended with {code}: {err}"
            else:
                finished = killed_once(program, config, folder, draw, tally)
            if isinstance(finished, str):
                return f"run {tally.runs}, kill {tally.kills}: {finished}"
            if trouble := trouble_after_a_kill(folder):
                return f"run {tally.runs}, kill {tally.kills}: {trouble}"
        tally.runs += 1
        if trouble := difference(folder, reference):
            return f"run {tally.runs - 1}, kill {tally.kills}: {trouble}"
    return None


def storm_in_temporary(program, peaceful_program, kills, seed):
    """(None or the first failure, Tally); the undisturbed run is `peaceful_program`'s."""
    tally = Tally()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        reference = undisturbed(peaceful_program, root)

        def config_of(number):
            return tiny_run.write_config(root, f"storm-{number}", f"storm-{number}.yaml"), root / f"storm-{number}" / "tiny"

        return storm(program, reference, config_of, kills, seed, tally), tally


def sees_planted_faults(program, faulty_run):
    for fault, expected in (("drops-position", "metrics.jsonl"), ("published-first", "checkpoints/step-")):
        failure, tally = storm_in_temporary([faulty_run, fault], program, kills=60, seed=2)
        print(f"{fault}: after {tally.kills} kills: {failure}")
        assert failure is not None, f"{fault}: the storm does not see the planted fault"
        assert expected in failure, "it fails, but not by what was planted"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--long", action="store_true", help="enough kills to ask where they hit")
    parser.add_argument("--planted", metavar="FAULTY_RUN")
    options = parser.parse_args()
    if options.planted:
        sees_planted_faults(options.program, options.planted)
        return
    begun = time.monotonic()
    failure, tally = storm_in_temporary(options.program, options.program, options.kills, options.seed)
    print(f"{tally}; {time.monotonic() - begun:.1f} s")
    assert failure is None, failure
    assert tally.kills >= options.kills
    if options.long:
        assert tally.inside_write >= 20, "too few kills hit a checkpoint write to prove anything"
        assert tally.near_growth >= 20, "too few kills hit a growth to prove anything"


if __name__ == "__main__":
    main()
