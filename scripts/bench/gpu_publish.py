#!/usr/bin/env python3
"""Makes docs/results/gpu.md and kernels/proven.json from what scripts/gpu_check measured.

  scripts/bench/gpu_publish.py build/gpu_check/results/gpu_check.json

The page gets the tables between its two marker lines; what stands around them stays. A kernel gets an entry in proven.json, which lets `auto`
pick it, where its tests passed on the GPU, compute-sanitizer found nothing, and no kernel of LibTorch's for the same work was faster.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from gpu_goals import rows_of, speed_against_library  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"

# kernel: its tests on the GPU; the benchmarks that show whether it pays; the peers among them that `auto` would have otherwise
KERNELS = {
    "adamw": (["test_kernels_on_gpu"], ["adamw_step"], ["_fused_adamw_ and a copy"]),
    "attention": (["test_attention_on_gpu"], ["attention_forward", "attention_backward"], ["flash", "default"]),
    "rms_norm": (["test_kernels_on_gpu"], ["rms_norm_forward", "rms_norm_backward"], ["_fused_rms_norm"]),
    "rope": (["test_kernels_on_gpu"], ["rope_forward"], ["reference"]),
    "swiglu": (["test_kernels_on_gpu"], ["swiglu_forward", "swiglu_backward"], ["reference"]),
    "cross_entropy": (["test_kernels_on_gpu"], ["cross_entropy"], ["eager", "chunks of ATen"]),
    "depth_attention": (["test_depth_attention_on_gpu"], [], []),
    "experts": (["test_experts_on_gpu"], [], []),
    "graph": (["test_graph_on_gpu"], [], []),
}


def graph_speed(result):
    step = (result.get("steps") or {}).get("step_30M")
    eager = step and next((program for program in step["programs"] if program["program"] == "meristem eager"), None)
    return eager["ours_over_this"]["median"] if eager and eager.get("ours_over_this") else None


def verdict(kernel, result):
    """(proven, why not)"""
    tests, subjects, peers = KERNELS[kernel]
    counts = result["tests"] or {"passed": []}
    missing = [test for test in tests if test not in counts["passed"]]
    if missing:
        return False, f"{', '.join(missing)} has not passed"
    for part in result["sections"]:
        if part["name"] == "sanitizer" and part["state"] not in ("passed", "skipped"):
            return False, f"compute-sanitizer: {part['state']}"
    speed = graph_speed(result) if kernel == "graph" else speed_against_library(result, subjects, peers)
    if (subjects or kernel == "graph") and speed is None:
        return False, "its speed was not measured"
    if speed is not None and speed < 1:
        return False, f"{speed:.2f} times as fast as what auto picks without it"
    return True, ""


def proofs(result, before):
    """The entries after this result: of a kernel and device, the newest counts, and one that fails now is gone."""
    kept = [proof for proof in before if proof["device"] != result["gpu"] or proof["kernel"] not in KERNELS]
    new = [{"kernel": kernel, "device": result["gpu"], "date": result["date"], "commit": result["commit"]}
           for kernel in KERNELS if verdict(kernel, result)[0]]
    return kept + new


def markdown(result):
    lines = [f"{result['gpu']}, {result['date']}, commit {result['commit'][:12]}: `scripts/gpu_check`, {result['seconds']:.0f} s.", "",
             "| part | state | seconds | |", "|---|---|---|---|"]
    lines += [f"| {part['name']} | {part['state']} | {part['seconds']} | {part['note']} |" for part in result["sections"]]
    mark = {True: "met", False: "**not met**", None: ""}
    lines += ["", "| measured | case | ours | found | goal | | |", "|---|---|---|---|---|---|---|"]
    lines += [f"| {row['what']} | {row['case']} | {row['ours']} | {row['found']} | {row['goal']} | {mark[row['met']]} | {row['note']} |"
              for row in rows_of(result)]
    lines += ["", "| kernel | `auto` may pick it | why not |", "|---|---|---|"]
    for kernel in KERNELS:
        proven, why = verdict(kernel, result)
        lines.append(f"| {kernel} | {'yes' if proven else 'no'} | {why} |")
    return lines


def new_page(page, result):
    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(BEGIN) > page.index(END):
        raise SystemExit(f"gpu_publish: error: docs/results/gpu.md: needs the lines {BEGIN} and {END} once each, in this order")
    before, after = page[:page.index(BEGIN)], page[page.index(END) + len(END):]
    return before + BEGIN + "\n" + "\n".join(markdown(result)) + "\n" + END + after


def read_result(path):
    try:
        result = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SystemExit(f"gpu_publish: error: {path}: {error}") from error
    if not isinstance(result, dict) or not result.get("gpu") or "sections" not in result:
        raise SystemExit(f"gpu_publish: error: {path}: not a result of scripts/gpu_check on a GPU")
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path, help="gpu_check.json")
    parser.add_argument("--root", type=Path, default=ROOT, help="the repository whose files are written")
    arguments = parser.parse_args()
    result = read_result(arguments.result)
    page, proven = arguments.root / "docs" / "results" / "gpu.md", arguments.root / "kernels" / "proven.json"
    text = new_page(page.read_text(), result)
    known = json.loads(proven.read_text())
    known["proofs"] = proofs(result, known["proofs"])
    page.write_text(text)
    proven.write_text(json.dumps(known, indent=2) + "\n")
    print(f"{page}\n{proven}: {', '.join(sorted({proof['kernel'] for proof in known['proofs']})) or 'nothing proven'}")


if __name__ == "__main__":
    main()
