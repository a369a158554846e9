#!/usr/bin/env python3
"""Makes docs/results/gpu.md and kernels/proven.json from what scripts/gpu_check measured.

  scripts/bench/gpu_publish.py FOLDER/gpu_check.json

The page gets the tables between its two marker lines; what stands around them stays. A kernel gets an entry in proven.json for each mask kind and
head dim, which lets `auto` pick it there, where its tests passed on the GPU, compute-sanitizer watched it and found nothing, and no kernel of
LibTorch's for the same work was faster.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from gpu_goals import rows_of, speed_against_library  # noqa: E402
from gpu_parts import WATCHED  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"

@dataclass(frozen=True)
class Claim:
    """What a proof says: this kernel, for this mask and head dim, is right on the device, and faster than what `auto` would have otherwise."""

    kernel: str
    tests: tuple      # of gpu_parts.TESTS, which must have passed
    sanitizer: tuple  # parts in which compute-sanitizer must have found nothing
    subjects: tuple   # benchmarks, all of them; their lines have `case`
    mask: str = ""    # causal, window, packed, joint; empty: the kernel knows no masks
    head_dim: int = 0  # 0: any

    def case(self):
        return {key: value for key, value in (("mask", self.mask), ("head_dim", self.head_dim)) if value}

    def name(self):
        return " ".join([self.kernel, *map(str, self.case().values())])


def watched(what):
    return tuple(f"sanitizer/{tool}_{name}" for tool, name in WATCHED if name in (what, "conformance"))


def dense(kernel, *subjects):
    return Claim(kernel, (kernel,), watched("dense"), subjects)


# Mask kinds are claimed apart, so that our attention is chosen where it wins. A model whose mask is of two kinds needs both claims.
CLAIMS = [Claim("attention", (f"attention_{mask}_{dim}", "attention_far"), watched("attention"), (f"{subject}_forward", f"{subject}_backward"), mask, dim)
          for mask, subject in (("causal", "attention"), ("window", "attention_window"), ("packed", "attention_packed")) for dim in (64, 128)]
CLAIMS += [Claim("depth_attention", ("depth_attention",), watched("depth_attention"), ("depth_attention_forward", "depth_attention_backward"), "", dim)
           for dim in (64, 128)]
CLAIMS += [Claim("depth_attention", ("depth_attention", f"attention_causal_{dim}"), watched("attention") + watched("depth_attention"),
                 ("attention_joint_forward", "attention_joint_backward"), "joint", dim) for dim in (64, 128)]
CLAIMS += [dense("adamw", "adamw_step"), dense("rms_norm", "rms_norm_forward", "rms_norm_backward"), dense("rope", "rope_forward"),
           dense("swiglu", "swiglu_forward", "swiglu_backward"), dense("cross_entropy", "cross_entropy"),
           Claim("experts", ("experts", "operators"), watched("experts"), ("experts_forward", "experts_backward")), Claim("graph", ("graph",), (), ("step_30M",))]


def graph_speed(result):
    step = (result.get("steps") or {}).get("step_30M")
    eager = step and next((program for program in step["programs"] if program["program"] == "meristem eager"), None)
    return eager["ours_over_this"]["median"] if eager and eager.get("ours_over_this") else None


def verdict(claim, result):
    """(proven, why not). What was skipped proves nothing, and only what is not about speed says whether a kernel is right."""
    states = {part["name"]: part for part in result["sections"]}
    for name in ("conformance", *(f"tests/{test}" for test in claim.tests), *claim.sanitizer):
        part = states.get(name, {"state": "not run", "note": ""})
        if part["state"] != "passed":
            return False, f"{name}: {part['state']}{': ' + part['note'] if part['note'] else ''}"
    if not claim.subjects:
        return True, ""
    speed = graph_speed(result) if claim.kernel == "graph" else speed_against_library(result, claim.subjects, **claim.case())
    if speed is None:
        return False, "its speed was not measured"
    return (True, "") if speed >= 1 else (False, f"{speed:.2f} times as fast as what auto picks without it")


def proofs(result, before):
    """The entries after this result: of a claim and device, the newest counts, and one that fails now is gone."""
    kernels = {claim.kernel for claim in CLAIMS}
    kept = [proof for proof in before if proof["device"] != result["gpu"] or proof["kernel"] not in kernels]
    where = {"dtype": "bf16", "device": result["gpu"], "date": result["date"], "commit": result["commit"]}  # all that is measured is bf16
    return kept + [{"kernel": claim.kernel, **claim.case(), **where} for claim in CLAIMS if verdict(claim, result)[0]]


def markdown(result):
    lines = [f"{result['gpu']}, {result['date']}, commit {result['commit'][:12]}: `scripts/gpu_check`, {result['seconds']:.0f} s.", "",
             "| part | state | seconds | |", "|---|---|---|---|"]
    lines += [f"| {part['name']} | {part['state']} | {part['seconds']} | {part['note']} |" for part in result["sections"]]
    mark = {True: "met", False: "**not met**", None: ""}
    lines += ["", "| measured | case | ours | found | goal | | |", "|---|---|---|---|---|---|---|"]
    lines += [f"| {row['what']} | {row['case']} | {row['ours']} | {row['found']} | {row['goal']} | {mark[row['met']]} | {row['note']} |"
              for row in rows_of(result)]
    lines += ["", "| kernel, mask, head dim | `auto` may pick it | why not |", "|---|---|---|"]
    for claim in CLAIMS:
        proven, why = verdict(claim, result)
        lines.append(f"| {claim.name()} | {'yes' if proven else 'no'} | {why} |")
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
    if not isinstance(result, dict) or not result.get("gpu") or "sections" not in result or result.get("rehearsal"):
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
