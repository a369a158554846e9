"""`meristem data primitives --tasks … --items N --out FILE.jsonl`: solved reasoning primitives as training text, a document a line. The same code as
the evaluation's, with seeds of its own, so that no document is one of its items."""

import argparse
import json
import sys
from pathlib import Path

import primitives
from command_errors import UserError, reported


def documents(names, items, shots, seed):
    """Tasks take turns; a document is `shots` solved items and one more."""
    for index in range(items):
        for name in names:
            yield primitives.with_shots(name, f"train/{seed}", index, shots, items).solved


@reported
def main(argv):
    parser = argparse.ArgumentParser(prog="meristem data primitives", description=__doc__, allow_abbrev=False)
    parser.add_argument("--tasks", default="primitives", help="primitives, or names of single ones separated by commas")
    parser.add_argument("--items", type=int, default=1000, help="documents of each task")
    parser.add_argument("--shots", type=int, default=5, help="solved items before the last in a document")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.jsonl")
    parser.add_argument("--force", action="store_true", help="replace the file where it exists")
    arguments = parser.parse_args(argv)
    known = primitives.task_names()
    names = known if arguments.tasks == "primitives" else arguments.tasks.split(",")
    for name in names:
        if name not in known:
            raise UserError(f"--tasks: found {name!r}; allowed: primitives, {', '.join(known)}")
    if arguments.items < 1 or arguments.shots < 0:
        raise UserError(f"--items, --shots: found {arguments.items}, {arguments.shots}; allowed: at least 1 and 0")
    if arguments.out.exists() and not arguments.force:
        raise UserError(f"{arguments.out}: exists; --force replaces it")
    with arguments.out.open("w") as file:
        for text in documents(names, arguments.items, arguments.shots, arguments.seed):
            file.write(json.dumps({"text": text}) + "\n")
    print(f"{arguments.out}: {arguments.items * len(names):,} documents of {len(names)} tasks")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
