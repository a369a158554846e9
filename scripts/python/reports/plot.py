"""`meristem plot RUN_DIR…`: draws plots/loss.png of each run from its metrics.jsonl, and turns samples/*.json into text.

Exit code 2 where a folder is not a run's, holds no step yet, or cannot be written; the other runs are drawn all the same.
"""

import json
import math
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import EngFormatter, MaxNLocator

from command import Parser, UserError, publish, report, reported
from reports.metrics import RunError, growth_steps, number, phase_spans, read_metrics, smoothed, stages_of, validation_points
from text.tokenizer import find_tokenizer, load_tokenizer

# Okabe and Ito's colours, which people with any colour vision tell apart; the markers tell the validation sets apart in grey, too.
TRAIN, GROWTH, LR = "#0072B2", "#D55E00", "#555555"
VALIDATION = [("#009E73", "o"), ("#CC79A7", "s"), ("#E69F00", "D"), ("#56B4E9", "^"), ("#000000", "v")]
SHADES = ("#0072B2", "#E69F00")
SMOOTHING = 0.03  # of the run's logged steps


def loss_limits(curve, validation):
    """The first steps fall from log(vocabulary) and would press everything else flat: the view begins after 4 % of them."""
    settled = [loss for loss in curve[len(curve) // 25:] if math.isfinite(loss)] + validation
    if not settled:
        return None
    low, high = min(settled), max(settled)
    margin = max(0.06 * (high - low), 0.01 * abs(high), 1e-3)
    return low - margin, high + 2 * margin


def draw_losses(axes, metrics, growths):
    steps = [line["step"] for line in metrics.steps]
    losses = [number(line.get("loss")) for line in metrics.steps]
    axes.plot(steps, losses, color=TRAIN, alpha=0.25, linewidth=0.8, label="training, each logged step")
    window, curve = max(1, round(SMOOTHING * len(steps))), []
    for begin, end in stages_of(steps, growths):
        part = smoothed(losses[begin:end], window)
        axes.plot(steps[begin:end], part, color=TRAIN, linewidth=1.8, marker="." if end - begin == 1 else None,
                  label="training, smoothed" if begin == 0 else None)
        curve += part
    shown = []
    for i, (source, (at, values)) in enumerate(validation_points(metrics).items()):
        colour, marker = VALIDATION[i % len(VALIDATION)]
        axes.plot(at, values, color=colour, marker=marker, markersize=5, linewidth=1, markeredgecolor="white", markeredgewidth=0.6,
                  label=f"validation: {source}", zorder=4)
        shown += values
    limits = loss_limits(curve, shown)
    if limits:
        axes.set_ylim(limits)


def mark_growth(axes, lower, growths):
    for i, (step, before, after) in enumerate(growths):
        for panel in (axes, lower):
            panel.axvline(step, color=GROWTH, linewidth=1.2, linestyle=(0, (4, 2)), zorder=3,
                          label="growth" if panel is axes and i == 0 else None)
        axes.annotate(f"{after} blocks" if before is None else f"{before} → {after} blocks", (step, 1), xycoords=("data", "axes fraction"),
                      xytext=(4, -6), textcoords="offset points", rotation=90, ha="left", va="top", fontsize=9, color=GROWTH, zorder=5,
                      bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.75})


def shade_phases(axes, lower, spans):
    for i, (name, start, stop) in enumerate(spans):
        for panel in (axes, lower):
            panel.axvspan(start, stop, color=SHADES[i % 2], alpha=0.07, linewidth=0, zorder=0)
        lower.annotate(name, ((start + stop) / 2, 0), xycoords=("data", "axes fraction"), xytext=(0, 3), textcoords="offset points",
                       ha="center", va="bottom", fontsize=8, color="#333333")


def draw_learning_rate(lower, metrics):
    rates = [number(line.get("lr")) for line in metrics.steps]
    lower.plot([line["step"] for line in metrics.steps], rates, color=LR, linewidth=1.4)
    lower.set_ylabel("learning rate", fontsize=9)
    lower.spines["top"].set_visible(False)
    peak = max((rate for rate in rates if math.isfinite(rate)), default=0)
    if peak > 0:
        lower.set_ylim(0, 1.15 * peak)
        lower.set_yticks([0, peak], ["0", f"{peak:.3g}"])


def add_token_axis(axes, metrics):
    """Tokens on the upper edge, where the file says how many a step has."""
    last = metrics.steps[-1]
    if not last.get("tokens") or not last["step"]:
        return
    per_step = last["tokens"] / last["step"]
    upper = axes.secondary_xaxis("top", functions=(lambda step: step * per_step, lambda tokens: tokens / per_step))
    upper.xaxis.set_major_formatter(EngFormatter(sep=""))
    upper.set_xlabel("tokens", fontsize=9)
    upper.tick_params(labelsize=8)


def draw(run_dir, metrics):
    last = metrics.steps[-1]
    growths = growth_steps(metrics)
    figure, (axes, lower) = plt.subplots(2, 1, figsize=(10, 6.2), sharex=True, height_ratios=(5, 1), layout="constrained")
    draw_losses(axes, metrics, growths)
    mark_growth(axes, lower, growths)
    shade_phases(axes, lower, phase_spans(metrics, last["step"]))
    draw_learning_rate(lower, metrics)
    lower.set_xlabel("optimizer step")
    lower.set_xlim(0, 1.01 * max(last["step"], 1))
    lower.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 2.5, 5, 10]))
    axes.set_ylabel("loss (nats per token)")
    add_token_axis(axes, metrics)
    for panel in (axes, lower):
        panel.grid(True, color="#DDDDDD", linewidth=0.6)
        panel.set_axisbelow(True)
        panel.spines["right"].set_visible(False)
    axes.legend(loc="upper right", fontsize=9, framealpha=0.9, edgecolor="#DDDDDD")
    depth = f", {last['blocks']} blocks" if "blocks" in last else ""
    axes.set_title(f"{Path(run_dir).resolve().name}: step {last['step']:,}{depth}", loc="left", fontweight="bold")
    return figure


def write_sample_texts(run_dir):
    """samples/*.json (token ids, from the trainer) -> samples/step-N.txt. Returns the notes to print."""
    files = sorted((run_dir / "samples").glob("*.json"))
    if not files:
        return []
    try:
        tokenizer, _ = load_tokenizer(find_tokenizer(run_dir))
    except UserError as error:
        return [f"samples stay token ids: {error}"]
    notes = []
    for file in files:
        try:
            sample = json.loads(file.read_text())
            prompt, ids = list(sample.get("prompt_ids", [])), list(sample["ids"])
            if prompt and ids[: len(prompt)] == prompt:
                ids = ids[len(prompt):]
            text = tokenizer.decode(prompt + ids, skip_special_tokens=False)
            name = f"step-{int(sample['step'])}.txt"
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            notes.append(f"{file}: not a sample ({type(error).__name__}: {error}); left as it is")
            continue
        publish(run_dir / "samples" / name, lambda path: path.write_text(text + "\n", encoding="utf-8"))
    return notes


def plot_run(run_dir):
    """Draws the run; returns what there is to say about lines and samples that could not be read."""
    metrics = read_metrics(run_dir)
    if not metrics.steps:
        raise RunError(f"{run_dir}/metrics.jsonl: no training step in it yet")
    notes = [f"{run_dir}/metrics.jsonl: {metrics.skipped} line(s) could not be read and were left out"] if metrics.skipped else []
    figure = draw(run_dir, metrics)
    publish(picture_of(run_dir), lambda path: figure.savefig(path, dpi=150, format="png"))
    plt.close(figure)
    return notes + write_sample_texts(run_dir)


def picture_of(run_dir):
    return run_dir / "plots" / "loss.png"


@reported
def main(argv):
    parser = Parser(prog="meristem plot", description="draw plots/loss.png of runs and write their samples as text")
    parser.add_argument("run_dirs", metavar="RUN_DIR", nargs="+", type=Path)
    code = 0
    for run_dir in parser.parse_args(argv).run_dirs:
        try:
            notes = plot_run(run_dir)
        except (RunError, OSError) as error:
            code = max(code, report(error))
            continue
        print(picture_of(run_dir))
        for note in notes:
            print(note, file=sys.stderr)
    return code
