"""The storm sees planted defects: a loader whose position is dropped on resume, a checkpoint published before its data is written."""

import argparse

import storm

parser = argparse.ArgumentParser()
parser.add_argument("program")
parser.add_argument("drops_position")
parser.add_argument("manifest_first")
options = parser.parse_args()

for planted, expected in ((options.drops_position, "metrics.jsonl"), (options.manifest_first, "checkpoints/step-")):
    failure, tally = storm.storm_in_temporary(planted, options.program, kills=60, seed=2)
    print(f"{planted.rsplit('/', 1)[-1]}: after {tally.kills} kills: {failure}")
    assert failure is not None, f"{planted}: the storm does not see the planted defect"
    assert expected in failure, "it fails, but not by what was planted"
