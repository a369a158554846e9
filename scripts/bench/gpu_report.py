#!/usr/bin/env python3
"""The last step of scripts/gpu_check: gathers what it measured into gpu_check.json and prints it as a table."""

import argparse
import json
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from compare import memory_of  # noqa: E402


def flops_per_token(shape):
    """Multiply-adds of a training step, counted as 2 FLOPs, forward once and backward twice: 6 for each weight of a matrix product (the
    head included, the embedding lookup not) and, for the half of the attention matrix that is not masked, 6 x sequence x width a layer."""
    d, heads, kv_heads = shape["width"], shape["heads"], shape["kv-heads"]
    head_dim = d // heads
    attention = d * (heads + 2 * kv_heads) * head_dim + heads * head_dim * d
    matrices = shape["layers"] * (attention + 3 * d * shape["inner"]) + d * shape["vocab"]
    return 6 * matrices + 6 * shape["layers"] * shape["sequence"] * heads * head_dim


def bench_rows(folder):
    """The programs' speed with MFU, or None where the benchmark left nothing."""
    try:
        result = json.loads((folder / "bench.json").read_text())
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
                     "last_loss": report["last_loss"], "ours_over_this": report.get("ours_over_this")})
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


def bench_table(bench):
    lines = [f"{'program':22} {'tokens/s':>10} {'step':>10} {'MFU':>7} {'peak memory':>12}  Meristem is faster by"]
    for row in bench["programs"]:
        mfu = f"{100 * row['mfu']:.1f} %" if row["mfu"] else "?"
        ratio = f"{row['ours_over_this']['median']:.2f}x" if row["ours_over_this"] else ""
        lines.append(f"{row['program']:22} {row['tokens_per_second']:10,.0f} {1000 * row['median_seconds']:7.1f} ms {mfu:>7} "
                     f"{row['peak_bytes'] / 2**30:8.2f} GiB  {ratio}".rstrip())
    return lines


def test_lines(name, counts):
    if counts is None:
        return [f"{name}: no result"]
    line = f"{name}: {len(counts['passed'])} passed, {len(counts['failed'])} failed, {len(counts['skipped'])} skipped or not run"
    return [line] + [f"  {kind}: {', '.join(counts[kind])}" for kind in ("failed", "skipped") if counts[kind]]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--gpu", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    arguments = parser.parse_args()
    folder = arguments.folder
    result = {"gpu": arguments.gpu, "seconds": arguments.seconds, "bench": bench_rows(folder),
              "tests_gpu": test_counts(folder / "tests_gpu.xml"), "tests_other": test_counts(folder / "tests_other.xml")}
    target = folder / "gpu_check.json"
    target.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\n{arguments.gpu}, {arguments.seconds:.0f} s in all")
    if result["bench"]:
        shape = result["bench"]["shape"]
        print(f"{shape['layers']} layers x {shape['width']}, bf16, {shape['batch']} x {shape['sequence']} tokens a step, "
              f"{result['bench']['rounds']} steps; MFU of the peak for dense bf16, causal attention counted half")
        print("\n".join(bench_table(result["bench"])))
    else:
        print("benchmark: no result")
    for name in ("tests_gpu", "tests_other"):
        print("\n".join(test_lines(name.replace("_", ", "), result[name])))
    print(target)
    gpu_tests = result["tests_gpu"]
    good = result["bench"] and gpu_tests and gpu_tests["passed"] and not gpu_tests["failed"] and not gpu_tests["skipped"]
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
