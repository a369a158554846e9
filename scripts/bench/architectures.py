"""Part of scripts/bench/cpu: a loop and a Dreamer-style model beside a decoder of as many calls, update by update in one process.

What is asked: a loop costs what the decoder costs, and a Dreamer-style model what its FLOPs are at the decoder's rate. Depth attention, which
the Dreamer-style model has, stands alone too."""

import json
import os
import statistics
import subprocess
import tempfile
from pathlib import Path

CALLS = 12
LOOP_BOUND, FLOPS_BOUND = 1.03, 1.1


def run_config(shape, precision):
    """A file of variants, as `meristem-bench variants` reads it; every JSON text is YAML."""
    once = {"blocks": 1, "depth_plan": f"(0)x{CALLS}"}
    # Two of sixteen experts, together as wide as the decoder's feed-forward part.
    experts = {"kind": "experts", "count": 16, "active": 2, "inner": shape["inner"] // 16 * 8, "router_dim": 64}
    separate = {"architecture": "dreamer", "depth_attention": {"kind": "separate"}}
    tokens = shape["batch"] * shape["sequence"]
    return {
        "run": {"name": "cost"},
        "model": {"vocab_size": shape["vocab"], "width": shape["width"], "blocks": CALLS, "feed_forward": {"inner": shape["inner"]},
                  "attention": {"heads": shape["heads"], "kv_heads": shape["kv-heads"]}},
        "data": {"sequence_length": shape["sequence"], "sources": {"none": {"path": "none"}}},
        "batch": {"tokens": tokens, "micro_sequences": shape["batch"]},
        "schedule": {"steps": 300},
        "precision": {"compute": precision},
        "variants": {"decoder": {}, "loop": {"model": {"blocks": 4, "depth_plan": "(0-3)x3"}},
                     "depth-attention": {"model": {**once, **separate}},
                     "dreamer": {"model": {**once, **separate, "feed_forward": experts}}},
    }


def measure(binary, shape, precision, rounds, threads):
    """A row for each model but the decoder: its step, and that over what was promised."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "architectures.yaml"
        config.write_text(json.dumps(run_config(shape, precision)))
        done = subprocess.run([binary, "variants", str(config), "--rounds", str(rounds)], check=True, stdout=subprocess.PIPE,
                              env={**os.environ, "OMP_NUM_THREADS": str(threads)})
    return rows({name.removeprefix("cost-"): lane for name, lane in json.loads(done.stdout).items()})


def over(lane, promised):
    """Times what is promised, the median of the rounds' own ratios: what stands beside each other in a round is slowed down alike. promised: seconds by round."""
    return statistics.median(seconds / wanted for seconds, wanted in zip(lane["seconds"], promised))


def rows(lanes):
    decoder = lanes["decoder"]
    for name, lane in lanes.items():
        if name == "decoder":
            continue
        loop = name == "loop"
        share = 1 if loop else lane["train_flops_per_token"] / decoder["train_flops_per_token"]
        yield {"model": name, "step_seconds": lane["step_seconds"], "decoder_seconds": decoder["step_seconds"], "promised_seconds": share * decoder["step_seconds"],
               "over_promised": over(lane, [share * seconds for seconds in decoder["seconds"]]), "bound": LOOP_BOUND if loop else FLOPS_BOUND}


def table(measured):
    lines = [f"{'precision':9}  {'model':16}  {'step':>9}  {'promised':>9}  step / promised"]
    for row in measured:
        lines.append(f"{row['precision']:9}  {row['model']:16}  {1000 * row['step_seconds']:6.1f} ms  {1000 * row['promised_seconds']:6.1f} ms  "
                     f"{row['over_promised']:.3f} (at most {row['bound']} wanted)")
    return "\n".join(lines)
