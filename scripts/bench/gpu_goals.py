"""What scripts/gpu_check is to show, next to what it showed: one row a measurement. Used for the printed table and for docs/results/gpu.md."""

import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import gpu_roofline  # noqa: E402

BEST = None  # all peers: the goal is against the fastest of them

# subject: (peers, least ratio): ours against the fastest of these peers. A peer that is not named is shown without a goal.
AGAINST_PEERS = {
    "attention_forward": (["flash"], 0.9),
    "attention_backward": (["flash"], 0.75),
    "attention_window_forward": (BEST, 1.5),
    "attention_window_backward": (BEST, 1.5),
    "attention_packed_forward": (BEST, 1.5),
    "attention_packed_backward": (BEST, 1.5),
    "rms_norm_backward": (["_fused_rms_norm"], 1.5),
    "cross_entropy": (["eager"], 1.4),
}
# subject: least share of a copy's bandwidth
AGAINST_COPY = {"adamw": 0.85, "depth_attention_forward": 0.8, "depth_attention_backward": 0.8}
MOST_MEMORY = {"cross_entropy": 0.2}  # share of the first peer's
MOST_IDLE = 0.03  # share of a step's time in which the GPU does nothing

# part: (peer, least speed ratio, least MFU)
STEPS = {
    "step_30M": ("meristem eager", 1.2, None),
    "step_124M": ("transformers compile", 1.1, 0.35),
    "step_360M": ("transformers compile", None, 0.40),
    "step_1.7B": ("transformers compile", 1.05, 0.45),
}


def row(what, case, ours, found, goal=None, value=None, note=""):
    """goal: the least value; a row without one has no verdict."""
    return {"what": what, "case": case, "ours": ours, "found": found, "goal": "" if goal is None else f">= {goal:g}",
            "met": None if goal is None or value is None else value >= goal, "note": note}


def row_below(what, case, ours, found, share, most):
    return {**row(what, case, ours, found), "goal": f"<= {100 * most:g} %", "met": share <= most}


def ratio_rows(line):
    """Ours against each peer: how many times as fast."""
    seconds, ours = line["seconds"], line["ours"]
    rivals, least = AGAINST_PEERS.get(line["subject"], ([], None))
    peers = {peer: theirs for peer, theirs in seconds.items() if peer != ours}
    fastest = min((peers[peer] for peer in peers if rivals is BEST or peer in rivals), default=None)
    for peer, theirs in peers.items() if seconds[ours] else ():
        ratio = theirs / seconds[ours]
        yield row(line["subject"], line["case"], ours, f"{ratio:.2f} x {peer}", least if theirs == fastest else None, ratio, expected_of(line))


def expected_of(line):
    """The measured time beside what the roofline promises."""
    expected, found = gpu_roofline.operator_seconds(line), line["seconds"].get(line["ours"])
    return f"{1e6 * found:.0f} us, estimate {1e6 * expected:.0f}" if expected and found else ""


def operator_rows(line):
    if "failed" in line:
        yield row(line["subject"], line["case"], line.get("ours", ""), "failed", note=line["failed"])
        return
    if "copy_share" in line:
        least = AGAINST_COPY.get(line["subject"])
        yield row(line["subject"], line["case"], line["ours"], f"{100 * line['copy_share']:.0f} % of a copy's bandwidth", least, line["copy_share"],
                  expected_of(line))
    yield from ratio_rows(line)
    for peer, theirs in line.get("peak_bytes", {}).items():
        most = MOST_MEMORY.get(line["subject"])
        if peer != line["ours"] and theirs and most:
            share = line["peak_bytes"][line["ours"]] / theirs
            yield row_below(line["subject"], line["case"], line["ours"], f"{100 * share:.0f} % of the memory of {peer}", share, most)


def step_rows(name, bench, device):
    rival, least, least_mfu = STEPS[name]
    ours = bench["programs"][0]
    speed = f"{ours['tokens_per_second']:,.0f} tokens/s, {ours['peak_bytes'] / 2**30:.1f} GiB"
    mfu = ours["mfu"]
    expected = gpu_roofline.step_seconds(bench["shape"], device)
    yield row(name, ours["program"], speed, f"MFU {100 * mfu:.1f} %" if mfu else "MFU ?", least_mfu, mfu,
              f"{1e3 * ours['median_seconds']:.1f} ms, estimate {1e3 * expected:.1f}" if expected else "")
    if ours.get("gpu_idle") is not None:
        yield row_below(name, ours["program"], speed, f"GPU idle {100 * ours['gpu_idle']:.1f} %", ours["gpu_idle"], MOST_IDLE)
    for peer in [peer for peer in bench["programs"][1:] if peer["ours_over_this"]]:
        ratio = peer["ours_over_this"]["median"]
        yield row(name, ours["program"], speed, f"{ratio:.2f} x {peer['program']}", least if peer["program"] == rival else None, ratio,
                  f"the peer: {peer['tokens_per_second']:,.0f} tokens/s, {peer['peak_bytes'] / 2**30:.1f} GiB")


def depth_rows(lane):
    """A line of depth_costs.py --json: a step with depth attention against what a step without it and their FLOPs promise."""
    yield {**row("depth_attention_step", f"{lane['model']}, {lane['calls']} calls", f"{1000 * lane['step_seconds']:.1f} ms",
                 f"{lane['ratio']:.3f} x the FLOPs' ratio"), "goal": f"<= {lane['bound']:g}", "met": lane["ratio"] <= lane["bound"]}


def rows_of(result):
    rows = [found for line in result.get("operators") or [] for found in operator_rows({**line, "device": result["gpu"]})]
    for name, bench in (result.get("steps") or {}).items():
        if bench and bench["programs"]:
            rows += step_rows(name, bench, result["gpu"])
    for lane in result.get("depth_steps") or []:
        rows += depth_rows(lane)
    return rows


def speed_against_library(result, subjects, peers=BEST, **case):
    """The median over cases of ours against the fastest of `peers` in the same case; None where nothing was measured. case: what lines must say
    of themselves, as mask="window", head_dim=64; a subject that was not measured there leaves nothing said of the others either."""
    ratios = {subject: [] for subject in subjects}
    for line in result.get("operators") or []:
        if line["subject"] not in ratios or any(line.get(key) != value for key, value in case.items()):
            continue
        theirs = [seconds for peer, seconds in line.get("seconds", {}).items() if peer != line["ours"] and (peers is BEST or peer in peers)]
        if theirs and line["seconds"].get(line["ours"]):
            ratios[line["subject"]].append(min(theirs) / line["seconds"][line["ours"]])
    return statistics.median(sum(ratios.values(), [])) if ratios and all(ratios.values()) else None
