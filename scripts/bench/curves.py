"""Training losses of several runs over each other, and how far each pair lies apart: curves.py RUN… --out PICTURE.

    for seed in 1 2; do for compute in fp32 bf16; do
      scripts/meristem train configs/quickstart.yaml growth=null model.blocks=4 schedule.steps=2000 schedule.decay.from_step=1200 \\
        run.name=$compute-$seed run.seed=$seed precision.compute=$compute
    done; done

A loss is the mean over a tenth of its neighbours; the distance of two runs is the mean of its absolute difference from the end of the warmup on."""

import argparse
import itertools
import json
from pathlib import Path

import numpy as np


def losses(run):
    """(updates, smoothed losses) of a run's log lines."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps, found = zip(*[(line["step"], line["loss"]) for line in lines if "loss" in line and "tokens_per_second" in line])
    width = max(1, len(found) // 20)
    padded = np.pad(np.array(found), width, mode="edge")
    return np.array(steps), np.convolve(padded, np.ones(2 * width + 1) / (2 * width + 1), mode="valid")


def draw(curves, out):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), dpi=120)
    for name, (steps, loss) in curves.items():
        axes.plot(steps, loss, label=name, linewidth=1.2, linestyle="--" if "bf16" in name else "-")
    axes.set_xlabel("update")
    axes.set_ylabel("training loss, smoothed")
    axes.set_ylim(top=max(loss[len(loss) // 10] for _, loss in curves.values()) * 1.05)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(out)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    curves = {run.name: losses(run) for run in arguments.runs}
    for (one, (steps, first)), (other, (_, second)) in itertools.combinations(curves.items(), 2):
        apart = np.abs(first - second)[steps > steps[-1] // 20]
        print(f"{one:>8} {other:>8}  mean distance {apart.mean():.4f}, at the end {abs(first[-1] - second[-1]):.4f}")
    draw(curves, arguments.out)


if __name__ == "__main__":
    main()
