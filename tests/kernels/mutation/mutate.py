#!/usr/bin/env python3
"""Changes a kernel's source and sees whether its tests on the CPU layer notice.

    mutate.py [--listed] [--random N [--seed S] [--least SHARE] [--minutes M]] [--jobs J] DESCRIPTION COMPILER PROGRAM... LAYER
    mutate.py --names DESCRIPTION

DESCRIPTION is the kernel's mutation.json, PROGRAM the objects of its problems (problems_main.cpp), LAYER the CPU layer's archive. --random draws
N mutants from all changes that operators.py allows, or takes all where there are fewer. Not counted are those that do not compile, those
with the object code of the unchanged source (equivalent by proof), and those with the code of an earlier one. Survivors must stand in
equivalent_mutants.txt beside the description, which says why each changes nothing; they count as not found in the share all the same.
--listed tries all that stand there: none may be found. --names compiles nothing: each must still be a change of the source. The faults that
the description plants are plant.py's business.
"""
import argparse
import concurrent.futures
import pathlib
import random
import sys
import tempfile
import time

from operators import changes
from workshop import Kernel, Workshop

NOT_COUNTED = ("does not compile", "same code", "duplicate")


def equivalents(path):
    """The set of (file, which of equal lines, line, changed line). An entry: '@ FILE [N]', '- LINE', '+ CHANGED', '= why'."""
    found, entry = set(), []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        if line[:2] in ("@ ", "- ", "+ "):
            entry.append(line[2:])
        if line.startswith("= "):
            file, *number = entry[0].split()
            found.add((file, int(number[0]) if number else 1, *entry[1:]))
            entry = []
    return found


def listed_changes(kernel):
    """[(change, its source)] of what is listed; and whether something there is no change of the source any more."""
    known = equivalents(kernel.tests / "equivalent_mutants.txt")
    pairs = [(change, source) for file, source in kernel.sources.items() for change in changes(file, source)
             if (file, *change.lines(source)) in known]
    gone = known - {(change.file, *change.lines(source)) for change, source in pairs}
    for file, number, before, after in sorted(gone):
        print(f"listed, and no change of the source any more: {file} {number}: {before}  ->  {after}")
    print(f"{len(pairs)} mutants are listed as equivalent")
    return pairs, bool(gone)


def listed(shop, pool):
    """Whether one of the listed mutants is found after all, or can no longer be made of the source."""
    pairs, failed = listed_changes(shop.kernel)

    def attempt(index):
        change, source = pairs[index]
        return shop.verdict(f"listed{index}", change.file, change.applied(source))

    for (change, source), verdict in zip(pairs, pool.map(attempt, range(len(pairs)))):
        if verdict.kind != "sound":
            failed |= verdict.kind != "same code"
            print(f"listed as equivalent, and {verdict.text or verdict.kind}: {change.file}: {change.lines(source)[2]}", flush=True)
    return failed


def drawn(shop, pool, count, seed, least, minutes):
    everything = [change for file, source in shop.kernel.sources.items() for change in changes(file, source)]
    random.Random(seed).shuffle(everything)
    print(f"{len(everything)} changes are possible; {count} are drawn with seed {seed}", flush=True)
    seen, kinds, survivors, left_out = set(), {}, [], dict.fromkeys(NOT_COUNTED, 0)

    def attempt(item):
        index, change = item
        source = shop.kernel.sources[change.file]
        verdict = shop.verdict(f"drawn{index}", change.file, change.applied(source), seen)
        if verdict.kind == "sound" and shop.same_when_optimised(f"again{index}", change.file, change.applied(source), change.spaced(source)):
            verdict.kind = "same code"
        return change, verdict

    waiting, begin = iter(enumerate(everything)), time.monotonic()
    running = []
    while sum(kinds.values()) < count and time.monotonic() - begin < 60 * minutes:
        while len(running) < shop.jobs and (item := next(waiting, None)):
            running.append(pool.submit(attempt, item))
        if not running:
            break
        change, verdict = running.pop(0).result()  # in the order in which they were drawn: the same ones count on every machine
        if verdict.kind not in NOT_COUNTED and verdict.code in seen:
            verdict.kind = "duplicate"
        seen.add(verdict.code)
        if verdict.kind in NOT_COUNTED:
            left_out[verdict.kind] += 1
            continue
        kinds[verdict.kind] = kinds.get(verdict.kind, 0) + 1
        if sum(kinds.values()) % 50 == 0:
            print(f"{sum(kinds.values())} mutants, {time.monotonic() - begin:.0f} s", flush=True)
        if verdict.kind == "sound":
            survivors.append((change.file, *change.lines(shop.kernel.sources[change.file])))
            file, number, before, after = survivors[-1]
            print(f"survived ({sum(kinds.values())}, {time.monotonic() - begin:.0f} s):\n@ {file} {number}\n- {before}\n+ {after}", flush=True)
    for future in running:
        future.cancel()
    return report(kinds, survivors, left_out, equivalents(shop.kernel.tests / "equivalent_mutants.txt"), least, time.monotonic() - begin)


def report(kinds, survivors, left_out, known, least, seconds):
    total = sum(kinds.values())
    share = 1 - len(survivors) / max(1, total)
    unknown = [survivor for survivor in survivors if survivor not in known]
    print(f"{total} mutants in {seconds:.0f} s, {total - len(survivors)} found ({100 * share:.1f} %): {dict(sorted(kinds.items()))}")
    print(f"not counted: {left_out}")
    print(f"survivors: {len(survivors)}, of which {len(survivors) - len(unknown)} are listed as equivalent")
    for file, number, before, after in unknown:
        print(f"NOT LISTED: {file} {number}: {before}  ->  {after}")
    if share < least:
        print(f"FAILED: fewer than {100 * least:.0f} % were found")
    return bool(unknown) or share < least


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", action="store_true")
    parser.add_argument("--listed", action="store_true")
    parser.add_argument("--random", type=int, default=0, metavar="N")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--least", type=float, default=0, metavar="SHARE")
    parser.add_argument("--minutes", type=float, default=1e9, help="draw no more after these")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("description", type=pathlib.Path)
    parser.add_argument("compiler", nargs="?")
    parser.add_argument("linked", nargs="*", type=pathlib.Path)
    given = parser.parse_args()
    kernel = Kernel(given.description.resolve())
    if given.names:
        return listed_changes(kernel)[1]
    with tempfile.TemporaryDirectory() as scratch, concurrent.futures.ThreadPoolExecutor(given.jobs) as pool:
        shop = Workshop(kernel, given.compiler, [path.resolve() for path in given.linked], pathlib.Path(scratch))
        shop.jobs = given.jobs
        failed = listed(shop, pool) if given.listed else False
        if given.random:
            failed |= drawn(shop, pool, given.random, given.seed, given.least, given.minutes)
        return failed


if __name__ == "__main__":
    sys.exit(main())
