#!/usr/bin/env python3
"""The last part of scripts/gpu_check: gathers what its parts left into gpu_check.json and prints it as a table."""

import argparse
import datetime
import json
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from compare import memory_of  # noqa: E402
from gpu_goals import STEPS, rows_of  # noqa: E402


def flops_per_token(shape):
    """Multiply-adds of a training step, counted as 2 FLOPs, forward once and backward twice: 6 for each weight of a matrix product (the
    head included, the embedding lookup not) and, for the half of the attention matrix that is not masked, 6 x sequence x width a layer."""
    d, heads, kv_heads = shape["width"], shape["heads"], shape["kv-heads"]
    head_dim = d // heads
    attention = d * (heads + 2 * kv_heads) * head_dim + heads * head_dim * d
    matrices = shape["layers"] * (attention + 3 * d * shape["inner"]) + d * shape["vocab"]
    return 6 * matrices + 6 * shape["layers"] * shape["sequence"] * heads * head_dim


def step_of(path):
    """The programs' speed with MFU, or None where the benchmark left nothing."""
    try:
        result = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    (comparison,) = result["comparisons"]
    peak = next((report["peak_flops"] for report in comparison["programs"] if report.get("peak_flops")), None)
    rows = []
    for report in comparison["programs"]:
        achieved = report["tokens_per_second"] * flops_per_token(result["shape"])
        rows.append({"program": report["program"], "tokens_per_second": report["tokens_per_second"],
                     "median_seconds": report["median_seconds"], "flops_per_second": achieved, "mfu": achieved / peak if peak else None,
                     "peak_bytes": memory_of(report), "parameters": report["parameters"],
                     "last_loss": report["last_loss"], "gpu_idle": report.get("gpu_idle"), "ours_over_this": report.get("ours_over_this")})
    return {"shape": result["shape"], "rounds": result["rounds"], "peak_flops": peak, "flops_per_token": flops_per_token(result["shape"]),
            "programs": rows}


def test_counts(path):
    """{"passed", "failed", "skipped": names} of a JUnit file; None where there is none."""
    try:
        cases = list(ElementTree.parse(path).getroot().iter("testcase"))
    except (OSError, ElementTree.ParseError):
        return None
    counts = {"passed": [], "failed": [], "skipped": []}
    for case in cases:
        status = case.get("status", "run")
        kind = "failed" if case.find("failure") is not None or status == "fail" else "passed" if status == "run" else "skipped"
        counts[kind].append(case.get("name"))
    return counts


def sections_of(path):
    """What became of each part: [{name, state, seconds, note}]."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return []
    names = ("name", "state", "seconds", "note")
    return [dict(zip(names, (line.split("\t") + [""] * 4)[:4])) for line in lines]


def lines_of(path):
    """The JSON lines of a benchmark; one that was cut off is left out."""
    lines = []
    try:
        text = path.read_text()
    except OSError:
        return lines
    for line in text.splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return lines


def gather(folder, gpu, seconds, commit):
    return {"gpu": gpu, "date": datetime.date.today().isoformat(), "commit": commit, "seconds": seconds,
            "sections": sections_of(folder / "sections.tsv"), "tests": test_counts(folder / "tests.xml"),
            "ranks": test_counts(folder / "ranks.xml"), "other_tests": test_counts(folder / "other_tests.xml"), "operators": lines_of(folder / "operators.jsonl"),
            "depth_steps": lines_of(folder / "depth_steps.jsonl"),
            "steps": {name: step_of(folder / f"{name}.json") for name in STEPS}}


def table(rows):
    mark = {True: "met", False: "NOT MET", None: ""}
    lines = [(row["what"], row["case"], row["found"], row["goal"], mark[row["met"]]) for row in rows]
    widths = [max((len(line[column]) for line in lines), default=0) for column in range(5)]
    return [" ".join(f"{cell:{width}}" for cell, width in zip(line, widths)).rstrip() for line in lines]


def test_lines(name, counts):
    if counts is None:
        return [f"{name}: no result"]
    line = f"{name}: {len(counts['passed'])} passed, {len(counts['failed'])} failed, {len(counts['skipped'])} skipped or not run"
    return [line] + [f"  {kind}: {', '.join(counts[kind])}" for kind in ("failed", "skipped") if counts[kind]]


def describe(result):
    lines = [f"{result['gpu']}, {result['seconds']:.0f} s in all, commit {result['commit'][:12]}"]
    lines += [f"  {part['name']:12} {part['state']:12} {part['seconds']:>5} s  {part['note']}".rstrip() for part in result["sections"]]
    lines += table(rows_of(result)) or ["operators and steps: no result"]
    for name in ("tests", "ranks", "other_tests"):
        lines += test_lines(name, result[name])
    return lines


def is_good(result):
    """Every part passed or was skipped, every GPU test ran and passed."""
    tests = result["tests"]
    return bool(tests and tests["passed"] and not tests["failed"] and not tests["skipped"]
                and all(part["state"] in ("passed", "skipped") for part in result["sections"]))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--gpu", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--commit", default="unknown")
    arguments = parser.parse_args()
    result = gather(arguments.folder, arguments.gpu, arguments.seconds, arguments.commit)
    target = arguments.folder / "gpu_check.json"
    target.write_text(json.dumps(result, indent=1) + "\n")
    text = "\n".join(describe(result))
    (arguments.folder / "gpu_check.txt").write_text(text + "\n")
    print(f"\n{text}\n{target}")
    return 0 if is_good(result) else 1


if __name__ == "__main__":
    sys.exit(main())
