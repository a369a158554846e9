#!/usr/bin/env python3
"""Puts the faults that a mutation.json plants into copies of a kernel's sources, all of them, each behind a switch, so that one
program, compiled once, is tried with every one.

    plant.py DESCRIPTION FOLDER      writes FOLDER/NAME/... as kernels/NAME/... is laid out, and FOLDER/faults.txt (problems_main.cpp)

A fault: `file`; `text`, which stands there once, with what changes between « and »; `change`, in its place. What changes is an expression, or
statements if it ends with ; or }. `found as`: the kinds that it may be found as; `part`: the one that must find it, where not all are asked.
Faults in one place must mark the same text.
"""
import collections
import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[3]
SWITCH = "meristem::test::planted_fault"
DECLARED = "namespace meristem::test { extern int planted_fault; }\n#line 1\n"  # reports name lines


def place_of(fault, source):
    """(begin, end) of what changes."""
    before, rest = fault["text"].split("«")
    old, after = rest.split("»")
    whole = before + old + after
    if source.count(whole) != 1:
        sys.exit(f"{fault['file']}: {source.count(whole)} places hold the text of \"{fault['name']}\"; there must be one")
    begin = source.index(whole) + len(before)
    return begin, begin + len(old)


def switched(old, changes):
    """`old`, or what it becomes with a fault; changes: [(number, text)]."""
    if old.endswith((";", "}")):
        cases = "".join(f"if ({SWITCH} == {number}) {{ {text} }} else " for number, text in changes)
        return f"{{ {cases}{{ {old} }} }}"
    cases = "".join(f"{SWITCH} == {number} ? ({text}) : " for number, text in changes)
    return f"({cases}({old}))"


def plant(source, faults):
    """The source with switches; faults: [(number, fault)]."""
    places = collections.defaultdict(list)
    for number, fault in faults:
        places[place_of(fault, source)].append((number, fault["change"]))
    end = len(source)
    for begin, last in sorted(places, reverse=True):
        if last > end:
            sys.exit(f"{faults[0][1]['file']}: two faults overlap at: {source[begin:last]}")
        source = source[:begin] + switched(source[begin:last], places[begin, last]) + source[last:]
        end = begin
    return DECLARED + source


def main():
    description, folder = (pathlib.Path(argument) for argument in sys.argv[1:3])
    described = json.loads(description.read_text(encoding="utf-8"))
    faults = described["planted"]
    for name in described["folders"]:
        for path in sorted((ROOT / "kernels" / name).iterdir()):
            if path.suffix not in (".h", ".cu"):
                continue
            file = f"{name}/{path.name}"
            source = plant(path.read_text(encoding="utf-8"), [(i, fault) for i, fault in enumerate(faults) if fault["file"] == file])
            copy = folder / file
            copy.parent.mkdir(parents=True, exist_ok=True)
            if not copy.exists() or copy.read_text(encoding="utf-8") != source:  # what did not change is not compiled again
                copy.write_text(source, encoding="utf-8")
    lines = ["\t".join(part["name"] for part in described["parts"])]
    lines += ["\t".join([fault.get("part", ""), fault["name"], *fault["found as"]]) for fault in faults]
    (folder / "faults.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
