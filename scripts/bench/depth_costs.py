"""scripts/bench/depth_costs: step times of looped models and of models with depth attention against what their parts and FLOPs promise."""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import architectures  # noqa: E402

LOOP_BOUND, DEPTH_ATTENTION_BOUND, GPU_BOUND = 1.05, 1.25, 1.05
# A GPU's models at a size that a CPU does in no time, by what runs there.
TINY = ["model.vocab_size=256", "model.width=64", "model.attention.heads=4", "model.attention.kv_heads=2", "model.feed_forward.inner=128",
        "data.sequence_length=32", "batch.tokens=64", "batch.micro_sequences=2", "kernels.attention=auto", "kernels.cross_entropy=auto"]


def measure(config, precision, rounds, overrides=()):
    command = [os.environ["MERISTEM_BENCH"], "variants", str(HERE / config), f"precision.compute={precision}", *overrides, "--rounds", str(rounds)]
    lanes = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return {name.removeprefix("cost-"): lane for name, lane in lanes.items()}


def loop_rows(lanes):
    """step ÷ (calls x one block's time + head), a block's time being what the calls of `plain` beyond `one`'s single call take each."""
    one, plain = lanes.pop("one"), lanes.pop("plain")
    for name, lane in lanes.items():
        blocks = (lane["calls"] - one["calls"]) / (plain["calls"] - one["calls"])
        yield name, lane, [first + blocks * (all_calls - first) for first, all_calls in zip(one["seconds"], plain["seconds"])], LOOP_BOUND


def depth_attention_rows(lanes, bound=DEPTH_ATTENTION_BOUND):
    """step with ÷ (step without x the ratio of their counted FLOPs)."""
    without = lanes.pop("without")
    for name, lane in lanes.items():
        share = lane["train_flops_per_token"] / without["train_flops_per_token"]
        yield name, lane, [share * seconds for seconds in without["seconds"]], bound


def costs(rounds, gpu, tiny):
    """(precision, model, its lane, promised seconds by round, bound) of every model."""
    if gpu:
        tables = [("bf16", "depth_attention_costs_gpu.yaml", lambda lanes: depth_attention_rows(lanes, GPU_BOUND))]
    else:
        tables = [(precision, config, rows) for precision in ("fp32", "bf16")
                  for config, rows in (("loop_costs.yaml", loop_rows), ("depth_attention_costs.yaml", depth_attention_rows))]
    for precision, config, rows in tables:
        for found in rows(measure(config, precision, rounds, TINY if tiny else ())):
            yield precision, *found


def main(argv):
    parser = argparse.ArgumentParser(prog="scripts/bench/depth_costs", description=__doc__, allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--gpu", action="store_true", help="depth attention at a GPU's size, by our CUDA kernels, one JSON line a model")
    parser.add_argument("--tiny", action="store_true", help="with --gpu: the same at a size for a CPU, to rehearse it")
    arguments = parser.parse_args(argv)
    if not arguments.gpu:
        print("| compute | model | calls | step | promised | step / promised | bound |\n|---|---|---|---|---|---|---|")
    good = True
    for precision, name, lane, by_round, bound in costs(arguments.rounds, arguments.gpu, arguments.tiny):
        promised, ratio = statistics.median(by_round), architectures.over(lane, by_round)
        good = good and ratio <= bound
        if arguments.gpu:
            print(json.dumps({"model": name, "calls": lane["calls"], "step_seconds": lane["step_seconds"], "promised": promised, "ratio": ratio,
                              "bound": bound}), flush=True)
        else:
            print(f"| {precision} | {name} | {lane['calls']} | {lane['step_seconds'] * 1e3:.0f} ms | {promised * 1e3:.0f} ms | {ratio:.3f} | {bound} |", flush=True)
    return 0 if good or arguments.gpu else 1  # a GPU's are judged by gpu_goals.py


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
