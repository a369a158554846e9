"""`meristem eval CHECKPOINT --tasks …`: multiple choice scored by log-likelihood. A task is a reasoning primitive or a JSONL file whose lines are
{"context": text, "choices": [texts], "gold": index}. Accuracy is that of the most likely choice; chance and a 95 % bootstrap interval over items
stand beside it."""

import json
import os
import re
import sys
import tempfile
from pathlib import Path

import numpy as np

from bootstrap import interval
from command import Parser, UserError, program_answer, publish, reported, require_writable
from evaluation import primitives
from evaluation.items import encoded_items
from text.coverage import say_lost
from text.documents import json_lines
from text.tokenizer import add_bos_argument, begin_ids, texts_of_run, ending_ids, find_tokenizer, load_tokenizer


class Task:
    """Items with their texts, and what a guess would score."""

    def __init__(self, name, items, chance, shots, places=None):
        self.name, self.items, self.chance, self.shots, self.places = name, items, chance, shots, places

    def place(self, number):
        """Of an item, for messages: FILE:LINE, or the task's name and the item's number from 0."""
        return self.places[number] if self.places else f"{self.name}: item {number}"


def primitive_task(name, count, shots, seed):
    items = [primitives.with_shots(name, f"eval/{seed}", index, shots, count) for index in range(count)]
    return Task(name, items, primitives.chance(name), shots)


def is_text(value):
    """Half a character (a lone surrogate) is none."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def checked_item(value, place):
    if not isinstance(value, dict) or set(value) != {"context", "choices", "gold"}:
        found = ", ".join(sorted(map(ascii, value))) or "no key" if isinstance(value, dict) else type(value).__name__
        raise UserError(f"{place}: found {found}; allowed: context, choices, gold")
    context, choices, gold = value["context"], value["choices"], value["gold"]
    if not is_text(context):
        raise UserError(f"{place}: context: found {ascii(context)[:60]}; allowed: a text")
    if not isinstance(choices, list) or len(choices) < 2 or not all(is_text(choice) and choice for choice in choices):
        raise UserError(f"{place}: choices: found {ascii(choices)[:60]}; allowed: at least two texts that are not empty")
    if not isinstance(gold, int) or isinstance(gold, bool) or not 0 <= gold < len(choices):
        raise UserError(f"{place}: gold: found {gold!r}; allowed: 0 to {len(choices) - 1}")
    return primitives.Item(context, tuple(choices), gold)


def file_task(path, count, shots):
    places, items = [], []
    for place, record in json_lines(path):
        places.append(place)
        items.append(checked_item(record, place))
    if not items:
        raise UserError(f"{path}: has no item")
    if shots >= len(items):
        raise UserError(f"--shots: found {shots}; {path} has {len(items)} items, so at most {len(items) - 1} others can stand before one")
    shown = [preceded(items, index, shots) for index in range(len(items))][:count]
    return Task(path.name, shown, float(np.mean([1 / len(item.choices) for item in shown])), shots, places)


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


def write_item_ids(file, tokenizer, task, begin, ends):
    for context, choices in encoded_items(tokenizer, task.items, task.place, begin, ends):
        file.write(json.dumps({"context": context, "choices": choices}) + "\n")


def log_likelihoods(checkpoint, path, depth, ranks, place):
    """Those of the choices of each line of `path`; place(line) names it for messages. `depth`: --plan and --repeats as words of a command. With `ranks`, so many
    processes of this machine share the lines out."""
    arguments = ["eval", str(checkpoint), "--item-ids", str(path), *depth]
    launched = [sys.executable, str(Path(__file__).parents[1]), "launch", *arguments, "--nproc", str(ranks)]
    lines = program_answer(launched if ranks else [os.environ["MERISTEM_BINARY"], *arguments], "choices scored",
                           lambda line: re.sub(re.escape(str(path)) + r":(\d+)", lambda found: place(int(found[1]) - 1), line))
    return [json.loads(line)["log_likelihoods"] for line in lines]


def hit(scores, gold):
    """1 where the right choice is the most likely one; 1/k where it is one of k that are equally likely: a guess among them."""
    best = np.flatnonzero(scores == scores.max())
    return float(gold in best) / len(best)


def result_of(task, scores, seed):
    """`scores`: of the choices of each item."""
    hits, normed, margins, ties, own_results = [], [], [], 0, []
    for item, own in zip(task.items, map(np.array, scores), strict=True):
        hits.append(hit(own, item.gold))
        normed.append(hit(own / [len(choice.encode()) for choice in item.choices], item.gold))
        margins.append(own[item.gold] - np.logaddexp.reduce(own))
        ties += int((own == own.max()).sum() > 1)
        own_results.append({"log_likelihoods": own.tolist(), "choice": int(own.argmax()), "gold": item.gold})
    hits = np.array(hits)
    return {"task": task.name, "items": len(task.items), "shots": task.shots, "chance": task.chance, "accuracy": float(hits.mean()),
            "interval": interval([hits], seed), "ties": ties, "accuracy_per_byte": float(np.mean(normed)),
            "gold_log_probability": float(np.mean(margins)), "item_results": own_results}


def table(results):
    width = max(len(r["task"]) for r in results)
    lines = [f"{'task':{width}}  items  shots  accuracy  95 % interval   chance"]
    for r in results:
        low, high = r["interval"]
        lines.append(f"{r['task']:{width}}  {r['items']:5}  {r['shots']:5}  {r['accuracy']:8.1%}  {low:6.1%}-{high:6.1%}  {r['chance']:6.1%}")
    lines += [f"{r['task']}: in {r['ties']} items k choices are the most likely ones; there the right one counts 1/k" for r in results if r["ties"]]
    return "\n".join(lines)


def is_first_rank():
    """Under torchrun and srun every rank comes here, and the first one has the scores."""
    rank = os.environ.get("RANK") or (os.environ.get("SLURM_PROCID") if os.environ.get("SLURM_STEP_NUM_TASKS") else None)
    return rank in (None, "0")


def evaluate(arguments, tokenizer, begin, ends):
    results = []
    tasks = tasks_of(arguments.tasks, arguments.items, arguments.shots, arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "items.jsonl"
        with path.open("w") as file:
            for task in tasks:
                write_item_ids(file, tokenizer, task, begin, ends)
        if is_first_rank():
            say_lost(tokenizer, ((task.place(number), item.context + choice) for task in tasks for number, item in enumerate(task.items) for choice in item.choices))
        places = [task.place(number) for task in tasks for number in range(len(task.items))]
        depth = [word for name in ("plan", "repeats", "precision") if (value := getattr(arguments, name)) is not None for word in (f"--{name}", str(value))]
        scores = log_likelihoods(arguments.checkpoint, path, depth, arguments.nproc, places.__getitem__)
    if not is_first_rank():
        return results
    at = 0
    for task in tasks:
        results.append(result_of(task, scores[at:at + len(task.items)], arguments.seed))
        at += len(task.items)
    return results


def parse(argv):
    parser = Parser(prog="meristem eval", description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="a checkpoint or a run folder (its newest checkpoint)")
    parser.add_argument("--tasks", required=True, help="primitives, names of single primitives, JSONL files; separated by commas")
    parser.add_argument("--shots", type=int, help="solved examples before each item (default: 5 for primitives, 0 for a file)")
    parser.add_argument("--items", type=int, help="items of a task (default: 1000 of a primitive, all of a file)")
    parser.add_argument("--seed", type=int, default=42, help="seed of the items and of the bootstrap")
    parser.add_argument("--plan", help='depth plan, e.g. "0-9, (10-13)x2, 14-23"; semicolons will do for commas (default: as trained)')
    parser.add_argument("--repeats", type=int, metavar="N", help="rounds of the plan's one loop (default: as the plan says)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), help="what to compute in (default: as trained)")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.json, where the checkpoint does not say")
    add_bos_argument(parser)
    parser.add_argument("--nproc", type=int, metavar="N", help="share the items out over N ranks on this machine: GPUs, or processes on its cores")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the results here too")
    arguments = parser.parse_args(argv)
    for name, least in (("shots", 0), ("items", 1), ("nproc", 1), ("repeats", 1)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise UserError(f"--{name}: found {value}; allowed: at least {least}")
    if not arguments.checkpoint.exists():
        raise UserError(f"{arguments.checkpoint}: no such checkpoint or run folder")
    if arguments.json:
        require_writable(arguments.json)
    return arguments


@reported
def main(argv):
    arguments = parse(argv)
    tokenizer, path = load_tokenizer(arguments.tokenizer or find_tokenizer(arguments.checkpoint), read_special=True)
    begin = begin_ids(tokenizer, path, arguments.bos, texts_of_run(arguments.checkpoint)[0])
    results = evaluate(arguments, tokenizer, begin, ending_ids(arguments.checkpoint, tokenizer, path))
    if not is_first_rank():
        return 0
    print(table(results))
    if arguments.json:
        document = {"checkpoint": str(arguments.checkpoint), "plan": arguments.plan, "repeats": arguments.repeats, "precision": arguments.precision, "seed": arguments.seed, "results": results}
        publish(arguments.json, lambda beside: beside.write_text(json.dumps(document, indent=1) + "\n"))
    return 0
