"""`meristem lm-eval CHECKPOINT --tasks …`: lm-evaluation-harness, as it is, on a checkpoint. The checkpoint is exported to a temporary Hugging Face folder, and a depth plan reaches
the model as one of the harness's model arguments. Primitives and JSONL files, as `meristem eval` takes them, become tasks of the harness; other names are its own. Options that
are not listed here go to lm_eval as they are (--limit N, --num_fewshot N, --batch_size N, --output_path DIR, --log_samples, …)."""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from command import Parser, UserError, reported
from depth_plan import longest_loop, plan_of
from evaluation import evaluate, primitives
from sweeps import cells
from sweeps.models import checkpoint_folder, plan_for, read_models

ROOT = Path(__file__).resolve().parents[3]
GROUPS = ROOT / "configs" / "lm_eval"  # papers.yaml and what belongs to it
# Choices continue the context exactly as they are written, and each is scored as a whole.
TASK = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {path}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{context}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: gold
target_delimiter: ""
num_fewshot: 0
metric_list: [{{metric: acc}}]
metadata: {{version: 1.0}}
"""


def own_tasks(words, arguments):
    """{word: Task} of those that are ours."""
    known = primitives.task_names()
    found = {}
    for word in words:
        for name in known if word == "primitives" else [word]:
            if name in known or Path(name).is_file():
                found[name] = evaluate.tasks_of(name, arguments.items, arguments.shots, arguments.seed)[0]
    return found


def write_task(folder, task):
    """As files of the harness; the name that it gets there."""
    name = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in task.name)
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps({"context": item.context, "choices": item.choices, "gold": item.gold}) + "\n" for item in task.items))
    (folder / f"{name}.yaml").write_text(TASK.format(name=name, path=json.dumps(str(path))))
    return name


def require_room(tasks, model, most, scratch):
    """The harness cuts what is longer from the left, with one line among many in its log."""
    for task in tasks:
        own = cells.encode(model, task, scratch)
        if own.longest > most + 1:  # the last token is none that is read
            raise UserError(f"{task.place(own.longest_item)}: has {own.longest:,} tokens, of which the harness would read the last {most:,}; --max-length {own.longest} reads them all")


def require_known(names, folder):
    """Refuses names that the harness has not; a pattern, or a file of its own, it looks up itself."""
    names = [name for name in names if "*" not in name and not Path(name).exists()]
    if not names:
        return
    command = [os.environ["MERISTEM_LM_EVAL"], "-m", "lm_eval", "validate", "--tasks", ",".join(names), "--include_path", str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if missing := re.search(r"^Tasks not found: (.*)$", done.stdout, re.M):
        raise UserError(f"--tasks: found {missing[1]}; allowed: a JSONL file, primitives, {', '.join(primitives.task_names())}, papers, and what lm_eval ls tasks lists")


def exported(model, arguments, folder):
    """The Hugging Face folder. With the code that reads a plan where one is given."""
    out = Path(folder) / "model"
    words = ["export", str(model.folder), "--out", str(out), *(["--with-code"] if arguments.plan or arguments.repeats else [])]
    done = subprocess.run([os.environ["MERISTEM_BINARY"], *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.stderr.write(done.stderr)
        raise SystemExit(done.returncode)
    return out


def model_arguments(folder, arguments, plan):
    """`plan`: its text. The harness takes commas for itself."""
    own_code = json.loads((folder / "config.json").read_text()).get("model_type") == "meristem"
    said = {"pretrained": folder, "trust_remote_code": True if own_code else None, "depth_plan": plan and plan.replace(",", ";"), "repeats": arguments.repeats,
            "max_length": arguments.max_length}
    return ",".join(f"{key}={value}" for key, value in said.items() if value is not None)


def parse(argv):
    parser = Parser(prog="meristem lm-eval", description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="a checkpoint or a run folder (its newest checkpoint)")
    parser.add_argument("--tasks", required=True, help="names of the harness, of groups in configs/lm_eval (papers), of primitives, and JSONL files; separated by commas")
    parser.add_argument("--plan", help="depth plan (default: as trained)")
    parser.add_argument("--repeats", type=int, metavar="N", help="rounds of the plan's one loop (default: as the plan says)")
    parser.add_argument("--max-length", type=int, metavar="N", help="tokens that the model may read (default: what it was trained with)")
    parser.add_argument("--shots", type=int, help="solved examples before each item of a primitive or a file, as for eval; --num_fewshot is for tasks of the harness")
    parser.add_argument("--items", type=int, help="items of a primitive or a file, as for eval")
    parser.add_argument("--seed", type=int, default=42, help="seed of the primitives' items")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.json, where the checkpoint does not say")
    arguments, options = parser.parse_known_args(argv)
    for name, least in (("repeats", 1), ("max_length", 1), ("shots", 0), ("items", 1)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise UserError(f"--{name.replace('_', '-')}: found {value}; allowed: at least {least}")
    for option in options:
        if option.split("=")[0] in ("--model", "--model_args", "--include_path"):
            raise UserError(f"{option}: this command says it itself; lm_eval can be called on a folder of `meristem export` too")
    return arguments, options


@reported
def main(argv):
    arguments, options = parse(argv)
    words = [word for word in dict.fromkeys(arguments.tasks.split(",")) if word]
    if not words:
        raise UserError("--tasks: found none")
    tasks = own_tasks(words, arguments)
    arguments.checkpoints, arguments.bos = [str(checkpoint_folder(arguments.checkpoint))], "auto"
    models = read_models(arguments)
    [[model]] = models.values()
    plan = arguments.plan and plan_for(arguments.plan, models)
    used = plan_of(plan or model.plan_text)
    if arguments.repeats and used.loop is None and longest_loop(used.calls) is None:
        raise UserError(f"--repeats: found {arguments.repeats}; allowed for a plan with a loop, and {plan or model.plan_text} has none")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "tasks"
        folder.mkdir()
        for path in GROUPS.iterdir():  # the harness looks into one folder
            (folder / path.name).symlink_to(path)
        theirs = [word for word in words if word != "primitives" and word not in tasks]
        names = [write_task(folder, task) for task in tasks.values()] + theirs
        require_room(tasks.values(), model, arguments.max_length or model.positions, scratch)
        require_known(theirs, folder)
        exported_to = exported(model, arguments, scratch)
        command = [os.environ["MERISTEM_LM_EVAL"], "-m", "lm_eval", "run", "--model", "hf", "--model_args", model_arguments(exported_to, arguments, plan), "--tasks", ",".join(names),
                   "--include_path", str(folder), *options]
        environment = os.environ | {"HF_MODULES_CACHE": str(Path(scratch) / "modules")}
        if len(names) == len(tasks):  # nothing has to be fetched
            environment |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_DATASETS_CACHE": str(Path(scratch) / "datasets")}
        return subprocess.run(command, env=environment).returncode
