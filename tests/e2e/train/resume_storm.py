"""A run killed again and again and resumed with `--resume auto` ends bit-equal to an undisturbed one, its metrics.jsonl included."""

import argparse
import time

import storm

parser = argparse.ArgumentParser()
parser.add_argument("program")
parser.add_argument("--kills", type=int, default=10)
parser.add_argument("--seed", type=int, default=1)
parser.add_argument("--long", action="store_true", help="enough kills to ask where they hit")
options = parser.parse_args()

begun = time.monotonic()
failure, tally = storm.storm_in_temporary(options.program, options.program, options.kills, options.seed)
print(f"{tally}; {time.monotonic() - begun:.1f} s")
assert failure is None, failure
assert tally.kills >= options.kills
if options.long:
    assert tally.inside_write >= 20, "too few kills hit a checkpoint write to prove anything"
    assert tally.near_growth >= 20, "too few kills hit a growth to prove anything"
