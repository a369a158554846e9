"""`meristem eval CHECKPOINT --tasks …`: multiple choice scored by log-likelihood. A task is a reasoning primitive or a JSONL file whose lines are
{"context": text, "choices": [texts], "gold": index}. Accuracy is that of the most likely choice; chance and a 95 % bootstrap interval over items
stand beside it."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from command import UserError, reported
from evaluation import primitives
from text.tokenizer import find_tokenizer, load_tokenizer

RESAMPLES = 2000


class Task:
    """Items with their texts, and what a guess would score."""

    def __init__(self, name, items, chance, shots):
        self.name, self.items, self.chance, self.shots = name, items, chance, shots


def primitive_task(name, count, shots, seed):
    items = [primitives.with_shots(name, f"eval/{seed}", index, shots, count) for index in range(count)]
    return Task(name, items, primitives.chance(name), shots)


def checked_item(value, place):
    if not isinstance(value, dict) or set(value) != {"context", "choices", "gold"}:
        raise UserError(f"{place}: found {sorted(value) if isinstance(value, dict) else type(value).__name__}; allowed: context, choices, gold")
    context, choices, gold = value["context"], value["choices"], value["gold"]
    if not isinstance(context, str):
        raise UserError(f"{place}: context: found {context!r}; allowed: a text")
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(c, str) and c for c in choices):
        raise UserError(f"{place}: choices: allowed: at least two texts that are not empty")
    if not isinstance(gold, int) or isinstance(gold, bool) or not 0 <= gold < len(choices):
        raise UserError(f"{place}: gold: found {gold!r}; allowed: 0 to {len(choices) - 1}")
    return primitives.Item(context, tuple(choices), gold)


def file_task(path, count, shots):
    items = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            items.append(checked_item(json.loads(line), f"{path}:{number}"))
        except ValueError as error:
            raise UserError(f"{path}:{number}: not JSON: {error}") from None
    if not items:
        raise UserError(f"{path}: has no item")
    if shots >= len(items):
        raise UserError(f"--shots: found {shots}; {path} has {len(items)} items, so at most {len(items) - 1} others can stand before one")
    shown = [preceded(items, index, shots) for index in range(len(items))][:count]
    return Task(path.name, shown, float(np.mean([1 / len(item.choices) for item in shown])), shots)


def preceded(items, index, shots):
    """The item behind the `shots` that follow it in the file, solved."""
    item = items[index]
    examples = [items[(index + k) % len(items)].solved for k in range(1, shots + 1)]
    return primitives.Item("\n\n".join([*examples, item.context]), item.choices, item.gold)


def tasks_of(words, count, shots, seed):
    tasks, known = [], primitives.task_names()
    for word in words.split(","):
        if word == "primitives":
            tasks += [primitive_task(name, count or 1000, 5 if shots is None else shots, seed) for name in known]
        elif word in known:
            tasks.append(primitive_task(word, count or 1000, 5 if shots is None else shots, seed))
        elif Path(word).is_file():
            tasks.append(file_task(Path(word), count, shots or 0))
        else:
            raise UserError(f"--tasks: found {word!r}; allowed: a JSONL file, primitives, {', '.join(known)}")
    return tasks


def split_ids(tokenizer, context, choice):
    """(context ids, choice ids). Encoded together, as the model would read them; the choice begins where the two encodings part."""
    before = tokenizer.encode(context, add_special_tokens=False).ids
    whole = tokenizer.encode(context + choice, add_special_tokens=False).ids
    common = 0
    while common < min(len(before), len(whole)) and before[common] == whole[common]:
        common += 1
    common = max(1, min(common, len(whole) - 1))
    return whole[:common], whole[common:]


def write_item_ids(file, tokenizer, task):
    """A line for each choice: a merge across the border may give each its own context."""
    for item in task.items:
        for choice in item.choices:
            context, ids = split_ids(tokenizer, item.context, choice)
            file.write(json.dumps({"context": context, "choices": [ids]}) + "\n")


def log_likelihoods(checkpoint, path, plan, ranks):
    """One number a line of `path`. With `ranks`, so many processes of this machine share the lines out."""
    arguments = ["eval", str(checkpoint), "--item-ids", str(path), *(["--plan", plan] if plan else [])]
    launched = [sys.executable, str(Path(__file__).parents[1]), "launch", *arguments, "--nproc", str(ranks)]
    command = launched if ranks else [os.environ["MERISTEM_BINARY"], *arguments]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if result.returncode != 0:
        raise SystemExit(result.returncode)
    return [json.loads(line)["log_likelihoods"][0] for line in result.stdout.splitlines()]


def interval(hits, seed):
    """95 % of the bootstrap's means over items."""
    draw = np.random.default_rng(seed)
    means = hits[draw.integers(0, len(hits), (RESAMPLES, len(hits)))].mean(axis=1)
    return [float(x) for x in np.quantile(means, (0.025, 0.975))]


def result_of(task, scores, seed):
    """`scores`: of every choice of every item, in order."""
    hits, normed, margins, at = [], [], [], 0
    for item in task.items:
        own = np.array(scores[at:at + len(item.choices)])
        at += len(item.choices)
        hits.append(own.argmax() == item.gold)
        normed.append((own / [len(choice.encode()) for choice in item.choices]).argmax() == item.gold)
        margins.append(own[item.gold] - np.logaddexp.reduce(own))
    assert at == len(scores)
    hits = np.array(hits, float)
    return {"task": task.name, "items": len(task.items), "shots": task.shots, "chance": task.chance, "accuracy": float(hits.mean()),
            "interval": interval(hits, seed), "accuracy_per_byte": float(np.mean(normed)), "gold_log_probability": float(np.mean(margins))}


def table(results):
    width = max(len(r["task"]) for r in results)
    lines = [f"{'task':{width}}  items  shots  accuracy  95 % interval   chance"]
    for r in results:
        low, high = r["interval"]
        lines.append(f"{r['task']:{width}}  {r['items']:5}  {r['shots']:5}  {r['accuracy']:8.1%}  {low:6.1%}-{high:6.1%}  {r['chance']:6.1%}")
    return "\n".join(lines)


def is_first_rank():
    """Under torchrun and srun every rank comes here, and the first one has the scores."""
    rank = os.environ.get("RANK") or (os.environ.get("SLURM_PROCID") if os.environ.get("SLURM_STEP_NUM_TASKS") else None)
    return rank in (None, "0")


def evaluate(arguments, tokenizer):
    results = []
    tasks = tasks_of(arguments.tasks, arguments.items, arguments.shots, arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "items.jsonl"
        with path.open("w") as file:
            for task in tasks:
                write_item_ids(file, tokenizer, task)
        scores = log_likelihoods(arguments.checkpoint, path, arguments.plan, arguments.nproc)
    if not is_first_rank():
        return results
    at = 0
    for task in tasks:
        count = sum(len(item.choices) for item in task.items)
        results.append(result_of(task, scores[at:at + count], arguments.seed))
        at += count
    return results


def parse(argv):
    parser = argparse.ArgumentParser(prog="meristem eval", description=__doc__, allow_abbrev=False)
    parser.add_argument("checkpoint", type=Path, help="a checkpoint or a run folder (its newest checkpoint)")
    parser.add_argument("--tasks", required=True, help="primitives, names of single primitives, JSONL files; separated by commas")
    parser.add_argument("--shots", type=int, help="solved examples before each item (default: 5 for primitives, 0 for a file)")
    parser.add_argument("--items", type=int, help="items of a task (default: 1000 of a primitive, all of a file)")
    parser.add_argument("--seed", type=int, default=42, help="seed of the items and of the bootstrap")
    parser.add_argument("--plan", help='depth plan, e.g. "0-9, (10-13)x2, 14-23"')
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.json, where the checkpoint does not say")
    parser.add_argument("--nproc", type=int, metavar="N", help="share the items out over N ranks on this machine: GPUs, or processes on its cores")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the results here too")
    arguments = parser.parse_args(argv)
    for name, least in (("shots", 0), ("items", 1), ("nproc", 1)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise UserError(f"--{name}: found {value}; allowed: at least {least}")
    if not arguments.checkpoint.exists():
        raise UserError(f"{arguments.checkpoint}: no such checkpoint or run folder")
    return arguments


@reported
def main(argv):
    arguments = parse(argv)
    tokenizer, _ = load_tokenizer(arguments.tokenizer or find_tokenizer(arguments.checkpoint), read_special=True)
    results = evaluate(arguments, tokenizer)
    if not is_first_rank():
        return 0
    print(table(results))
    if arguments.json:
        document = {"checkpoint": str(arguments.checkpoint), "plan": arguments.plan, "seed": arguments.seed, "results": results}
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    return 0
