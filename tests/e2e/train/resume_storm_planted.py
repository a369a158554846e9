"""The storm sees planted faults: a loader whose position is dropped on resume, a checkpoint published before its data is written."""

import argparse

import storm

parser = argparse.ArgumentParser()
parser.add_argument("program")
parser.add_argument("faulty_run")
options = parser.parse_args()

for fault, expected in (("drops-position", "metrics.jsonl"), ("published-first", "checkpoints/step-")):
    failure, tally = storm.storm_in_temporary([options.faulty_run, fault], options.program, kills=60, seed=2)
    print(f"{fault}: after {tally.kills} kills: {failure}")
    assert failure is not None, f"{fault}: the storm does not see the planted fault"
    assert expected in failure, "it fails, but not by what was planted"
