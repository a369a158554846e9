"""Checkpoints of format 1, written by the first edition of the program, still load, evaluate, and go on as they would have then.

    format1_test.py PROGRAM              the test
    format1_test.py PROGRAM --make       writes tests/golden/format1 anew: only ever with a program whose files shall be readable for good

Each folder holds a run that stands in its middle, the text it reads, and what that program computed next (expected.json).
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e" / "train"))
import same_bits  # noqa: E402
import tiny_run  # noqa: E402

FOLDER = Path(__file__).parent / "format1"
STEPS, SAVED = 16, 10
CASES = {
    "grown": ("growth-fp32", {"[13, 26]": "[4, 8]", "width: 32": "width: 16", "inner: 48": "inner: 24"}),
    "looped": ("loop", {"width: 32": "width: 16", "inner: 48": "inner: 24"}),
    "dreamer": ("dreamer", {"width: 32": "width: 16", "inner: 16": "inner: 8", "{kind: separate}": "{kind: separate, heads: 1}"}),
    "sft": ("sft", {"width: 32": "width: 16", "inner: 48": "inner: 24"}),
}
ITEMS = [{"context": [1, 2, 3, 4], "choices": [[5], [6, 7], [8]]}, {"context": [9], "choices": [[10, 11, 12], [13]]}]
# Other processors and thread counts round otherwise; a wrong tensor, moment, position or plan moves the second digit.
TOLERANCE = 2e-4


def checked(program, folder, *arguments):
    code, out, err = tiny_run.run(program, *arguments, cwd=folder)
    if code != 0:
        sys.exit(f"{folder.name}: {' '.join(map(str, arguments))}: exit code {code}\n{err}")
    return out


def losses(folder, name):
    """Training and validation losses after the saved step, in order."""
    found = []
    for line in map(json.loads, tiny_run.lines(folder / "runs" / name)):
        if line["step"] > SAVED and (line.get("event") or "validation") == "validation":
            found.append([line.get("event", "step"), line["step"], line["loss"]])
    return found


def scores(program, folder, name):
    (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in ITEMS))
    shown = checked(program, folder, "eval", f"runs/{name}", "--item-ids", "items.jsonl")
    return [value for line in shown.splitlines() for value in json.loads(line)["log_likelihoods"]]


def make(program):
    shutil.rmtree(FOLDER, ignore_errors=True)
    for name, (run, changes) in CASES.items():
        folder = FOLDER / name
        (folder / "data").mkdir(parents=True)
        tiny_run.write_shards(folder / "data", documents=(12, 8, 2))
        same_bits.write_masked(folder / "data" / "masked", documents=20)
        text = same_bits.config_text(run, name, out="runs", data="data")
        for old, new in (changes | {"steps: 40, warmup: 5": f"steps: {STEPS}, warmup: 2", "every: 10": "every: 5"}).items():
            text = text.replace(old, new)
        (folder / "run.yaml").write_text(text)
        checked(program, folder, "train", "run.yaml")
        expected = {"losses": losses(folder, name)}
        for checkpoint in tiny_run.published(folder / "runs" / name):
            if not checkpoint.name.endswith(str(SAVED)):
                shutil.rmtree(checkpoint)
        expected["scores"] = scores(program, folder, name)
        (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
        keep = {"run.yaml", "expected.json", "data", "runs"}
        for path in folder.iterdir():
            if path.name not in keep:
                path.unlink()
        for path in (folder / "runs" / name).iterdir():
            if path.name not in ("config.yaml", "metrics.jsonl", "checkpoints"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def far(wanted, found):
    return abs(wanted - found) > TOLERANCE * max(1.0, abs(wanted))


def faults_of(program, folder, name):
    """What this program does otherwise than the one that wrote the folder."""
    expected = json.loads((folder / "expected.json").read_text())
    checked(program, folder, "inspect", f"runs/{name}")
    found = scores(program, folder, name)
    if len(found) != len(expected["scores"]) or any(map(far, expected["scores"], found)):
        yield f"log-likelihoods {found}, then {expected['scores']}"
    checked(program, folder, "train", "run.yaml", "--resume", "auto")
    for wanted, now in zip(expected["losses"], losses(folder, name), strict=True):
        if wanted[:2] != now[:2] or far(wanted[2], now[2]):
            yield f"{now}, then {wanted}"


def main():
    program = Path(sys.argv[1]).resolve()
    if sys.argv[2:] == ["--make"]:
        make(program)
        return 0
    failed = 0
    with tempfile.TemporaryDirectory() as temporary:
        for name in CASES:
            folder = Path(temporary) / name
            shutil.copytree(FOLDER / name, folder)
            for fault in faults_of(program, folder, name):
                print(f"{name}: {fault}")
                failed += 1
            print(f"{name}: read", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
