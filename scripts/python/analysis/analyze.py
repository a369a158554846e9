"""`meristem analyze CHECKPOINT… --out DIR`: what happens along the depth of models, on the same texts for all of them. Writes DIR/analysis.json and, to look at,
DIR/index.html. docs/analysis.md says what each signature is."""

import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from analysis import page
from analysis import prompts as sources
from analysis.signatures import SIGNATURES, Raw, made, measures
from command import Parser, UserError, program_answer, publish, reported
from evaluation.evaluate import tasks_of
from evaluation.items import encoded_items
from text.coverage import ids_of, say_lost
from text.tokenizer import add_bos_argument, begin_ids, begun, ending_ids, find_tokenizer, load_tokenizer, texts_of_run

FORMAT = 1
LENS_TOKENS = 8192  # that a tuned lens is trained on, at most


@dataclass
class Model:
    """A checkpoint with a plan, and the files of ids that the program reads for it."""
    name: str
    checkpoint: Path
    options: list          # --plan and --repeats as words of a command
    files: list = field(default_factory=list)
    lens_tokens: int = 0
    lens_texts: int = 0


def named(checkpoints, plans):
    """Names from the folders: a run's, or that of a run's checkpoint; unique."""
    names = []
    for checkpoint, plan in zip(checkpoints, plans, strict=True):
        path = checkpoint.resolve()
        name = f"{path.parents[1].name} {path.name}" if path.parent.name == "checkpoints" else path.name
        if checkpoints.count(checkpoint) > 1 and plan:
            name += f" ({plan})"
        count = sum(1 for other in names if other == name or other.startswith(f"{name} #"))
        names.append(f"{name} #{count + 1}" if count else name)
    return names


def encoded(tokenizer, place, text, begin, most):
    return begun(begin, ids_of(tokenizer, place, text))[:most]


def write_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def prepare(model, arguments, prompts, tasks, folder):
    """Writes the ids that the program reads."""
    tokenizer, path = load_tokenizer(arguments.tokenizer or find_tokenizer(model.checkpoint), read_special=True)
    begin = begin_ids(tokenizer, path, arguments.bos, texts_of_run(model.checkpoint)[0])
    texts = [encoded(tokenizer, place, text, begin, arguments.tokens) for place, text in zip(prompts.places, prompts.texts, strict=True)]
    cuts = {"future", "local"} & set(measures(arguments.signatures))
    for number, (place, ids) in enumerate(zip(prompts.places, texts, strict=True)):
        least = sources.LEAST if cuts and number < arguments.effect_texts else 2
        if len(ids) < least:
            raise UserError(f"{place}: found {len(ids)} tokens; allowed: at least {least}")
    say_lost(tokenizer, zip(prompts.places, prompts.texts, strict=True))
    model.files = ["--text-ids", write_lines(folder / "texts.jsonl", ({"ids": ids} for ids in texts))]
    others = []
    for number, text in enumerate(prompts.others):
        others.append(encoded(tokenizer, f"text {number} for the tuned lens", text, begin, arguments.tokens))
        if sum(map(len, others)) >= LENS_TOKENS:
            break
    if sum(map(len, others)) >= 64:
        model.lens_tokens, model.lens_texts = min(LENS_TOKENS, sum(map(len, others))), len(others)
        model.files += ["--lens-ids", write_lines(folder / "lens.jsonl", ({"ids": ids} for ids in others if ids))]
    if tasks:
        ends = ending_ids(model.checkpoint, tokenizer, path)
        items = []
        for task in tasks:
            for item, (context, choices) in zip(task.items, encoded_items(tokenizer, task.items, task.place, begin, ends), strict=True):
                items.append({"task": task.name, "context": context, "choices": choices, "gold": item.gold})
        model.files += ["--item-ids", write_lines(folder / "items.jsonl", items)]


def command_of(model, arguments):
    return [os.environ["MERISTEM_BINARY"], "analyze", str(model.checkpoint), *model.files, *model.options, "--measure", ",".join(measures(arguments.signatures)),
            "--effect-texts", str(arguments.effect_texts), "--seed", str(arguments.seed)]


def check(model, arguments, prompts):
    """What the program would refuse, before any model is worked on."""
    done = subprocess.run([*command_of(model, arguments), "--check"], stderr=subprocess.PIPE, text=True)
    sys.stderr.write(re.sub(r"text (\d+):", lambda found: f"{prompts.places[int(found[1])]}:", done.stderr))
    if done.returncode != 0:
        raise SystemExit(done.returncode)


def measured(model, arguments):
    """The program's answer."""
    return json.loads("\n".join(program_answer(command_of(model, arguments), f"passes, {model.name}")))


def document_of(model, answer, arguments, prompts, tasks):
    found, left_out = made(Raw(answer, arguments.seed, {task.name: task.chance for task in tasks}), arguments.signatures)
    return {"name": model.name, "checkpoint": answer["checkpoint"], **{key: answer[key] for key in ("plan", "trained_plan", "blocks", "calls", "parameters", "period")},
            "prompts": {"file": prompts.file, "texts": len(answer["tokens"]), "tokens": sum(answer["tokens"]), "hash": prompts.hash},
            "tuned_lens": {"file": arguments.lens_source, "texts": model.lens_texts, "tokens": model.lens_tokens} if model.lens_texts else None,
            "tasks": [{"task": task.name, "items": len(task.items), "shots": task.shots} for task in tasks], "seed": arguments.seed,
            "signatures": found, "left_out": left_out}


def prompts_of(arguments):
    """The same for all models: of a file, else the first run's held-out text that is there, else word problems."""
    others = -(-LENS_TOKENS // arguments.tokens)
    tokenizer = load_tokenizer(arguments.tokenizer or find_tokenizer(arguments.checkpoints[0]), read_special=True)[0] if arguments.prompts or arguments.lens_text else None
    if arguments.prompts:
        prompts = sources.of_file(arguments.prompts, arguments.texts, arguments.tokens, tokenizer)
    else:
        found = (sources.held_out(checkpoint, arguments.texts, others, arguments.tokens) for checkpoint in arguments.checkpoints)
        prompts = next(filter(None, found), None) or sources.word_problems(arguments.texts, others)
    arguments.lens_source = prompts.file
    if arguments.lens_text:
        own = sources.of_file(arguments.lens_text, others, arguments.tokens, tokenizer)
        prompts.others, arguments.lens_source = own.texts, own.file
    return prompts


def signatures_of(words):
    if words is None:
        return list(SIGNATURES)
    for word in words.split(","):
        if word not in SIGNATURES:
            raise UserError(f"--signatures: found {word!r}; allowed: {', '.join(SIGNATURES)}")
    return [name for name in SIGNATURES if name in words.split(",")]


def require_folder(path, force):
    """Refuses a folder that could not be written, before the work whose results it shall hold."""
    standing = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not standing.is_dir():
        raise UserError(f"--out: {standing}: is a file; a folder is needed")
    if not os.access(standing, os.W_OK | os.X_OK):
        raise UserError(f"--out: {path}: cannot be written")
    for name in ("analysis.json", "index.html"):
        if (path / name).exists() and not force:
            raise UserError(f"{path / name}: exists already; --force replaces it")


def plans_of(arguments):
    plans = arguments.plan or [None]
    if len(plans) not in (1, len(arguments.checkpoints)):
        raise UserError(f"--plan: found {len(plans)}; allowed: one for all, or one for each of the {len(arguments.checkpoints)} checkpoints")
    return plans if len(plans) > 1 else plans * len(arguments.checkpoints)


def parse(argv):
    parser = Parser(prog="meristem analyze", description=__doc__)
    parser.add_argument("checkpoints", nargs="+", type=Path, metavar="CHECKPOINT", help="checkpoints or run folders (their newest checkpoint)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for analysis.json and index.html")
    parser.add_argument("--signatures", help=f"which, separated by commas (default: all): {', '.join(SIGNATURES)}")
    parser.add_argument("--prompts", type=Path, metavar="FILE", help='.jsonl with {"text"} or {"question", "answer"} a line, or running text (default: held-out text of the run; '
                        "where there is none, word problems)")
    parser.add_argument("--texts", type=int, default=20, help="texts that are measured on")
    parser.add_argument("--effect-texts", type=int, default=10, help="texts of them that calls are cut out of")
    parser.add_argument("--tokens", type=int, default=256, help="tokens that are read of a text, at most")
    parser.add_argument("--lens-text", type=Path, metavar="FILE", help="what the tuned lens is trained on, as --prompts (default: prompts that are not measured on)")
    parser.add_argument("--plan", action="append", help='depth plan, e.g. "0-9, (10-13)x2, 14-23" (default: as trained); several times: one for each checkpoint')
    parser.add_argument("--repeats", type=int, metavar="N", help="rounds of the plan's one loop (default: as the plan says)")
    parser.add_argument("--tasks", help="as `meristem eval --tasks`: early exits and edits of the plan on them, too")
    parser.add_argument("--items", type=int, default=100, help="items of a task")
    parser.add_argument("--shots", type=int, help="solved examples before each item (default: 5 for primitives, 0 for a file)")
    parser.add_argument("--seed", type=int, default=42, help="of boundaries, items, the tuned lens, bootstrap and permutations")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.json, where the checkpoints do not say")
    add_bos_argument(parser)
    parser.add_argument("--force", action="store_true", help="replace results that are there")
    arguments = parser.parse_args(argv)
    for name, least in (("texts", 1), ("effect_texts", 1), ("tokens", sources.LEAST), ("items", 1), ("shots", 0), ("repeats", 1), ("seed", 0)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise UserError(f"--{name.replace('_', '-')}: found {value}; allowed: at least {least}")
    arguments.signatures = signatures_of(arguments.signatures)
    for checkpoint in arguments.checkpoints:
        if not checkpoint.exists():
            raise UserError(f"{checkpoint}: no such checkpoint or run folder")
    for path in (arguments.prompts, arguments.lens_text):
        if path and not path.is_file():
            raise UserError(f"{path}: no such file")
    require_folder(arguments.out, arguments.force)
    return arguments


def write(document, folder):
    publish(folder / "analysis.json", lambda beside: beside.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n"))
    page.write(document, folder / "index.html")
    print(folder / "analysis.json", folder / "index.html", sep="\n")


@reported
def main(argv):
    arguments = parse(argv)
    plans = plans_of(arguments)
    prompts = prompts_of(arguments)
    tasks = tasks_of(arguments.tasks, arguments.items, arguments.shots, arguments.seed) if arguments.tasks else []
    repeats = ["--repeats", str(arguments.repeats)] if arguments.repeats else []
    models = [Model(name, checkpoint, [*(["--plan", plan] if plan else []), *repeats])
              for name, checkpoint, plan in zip(named(arguments.checkpoints, plans), arguments.checkpoints, plans, strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        for number, model in enumerate(models):
            own = Path(folder) / str(number)
            own.mkdir()
            prepare(model, arguments, prompts, tasks, own)
            check(model, arguments, prompts)
        answers = [measured(model, arguments) for model in models]
    document = {"format": FORMAT, "models": [document_of(model, answer, arguments, prompts, tasks) for model, answer in zip(models, answers, strict=True)]}
    write(document, arguments.out)
    return 0
