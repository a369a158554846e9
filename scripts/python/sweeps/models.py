"""The checkpoints that a sweep compares: their names, what tells one from another whatever its folder is called, and what they say of themselves."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from command import DamagedError, UserError
from depth_plan import Plan, plan_of
from text.tokenizer import begin_ids, ending_ids, find_tokenizer, load_tokenizer, texts_of_run


@dataclass(frozen=True)
class Model:
    name: str       # several of one name are one model under several seeds
    folder: Path    # of the checkpoint
    weights: str    # a hash of what decides its scores beside plan and items
    plan: Plan
    plan_text: str  # as it was trained
    blocks: int
    injects: bool   # into its loop
    positions: int  # how many it was trained with
    tokenizer: object
    tokenizer_path: Path
    begin: tuple    # ids before every text
    ends: tuple

    def __str__(self):
        return f"{self.name} ({self.folder})"


def read_json(path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # of its bytes or of its JSON
        raise DamagedError(f"{path}: not JSON: {error}") from None


def checkpoint_folder(path):
    """A checkpoint itself, or the newest whole one of a run folder."""
    if (path / "manifest.json").is_file():
        return path
    steps = []
    for _ in range(50):  # a listing beside a run that publishes a checkpoint and deletes the one before may show neither
        steps = steps or [found for found in (path / "checkpoints").glob("step-*") if re.fullmatch(r"step-\d+", found.name) and (found / "manifest.json").is_file()]
    if not steps:
        raise UserError(f"{path}: no such checkpoint or run folder" if not path.exists() else f"{path}: holds no checkpoint; expected one, or the folder of a run")
    return max(steps, key=lambda found: int(found.name[5:]))


def _digest(folder, config):
    """Of the weights, as the manifest names them, and of how they are computed with; the optimizer, the data and the folder's name do not matter."""
    files = read_json(folder / "manifest.json")["files"]
    said = {"files": {name: files[name] for name in sorted(files) if name.startswith("model")}, **{key: config.get(key) for key in ("model", "precision")}}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:32]


def _positions(folder, config):
    """What it was trained with, or came with (an import keeps the config.json that says so), as an export has it."""
    known = read_json(folder / "config.json").get("max_position_embeddings") if (folder / "config.json").is_file() else 0
    return max(config["data"]["sequence_length"], known if isinstance(known, int) else 0)


def _read(name, path, arguments):
    folder = checkpoint_folder(path)
    state = read_json(folder / "state.json")
    try:
        config = yaml.safe_load(state["config_yaml"])
        weights, plan, positions = _digest(folder, config), plan_of(state["depth_plan"]), _positions(folder, config)
        injects = (config["model"].get("loop") or {}).get("injection", "none") != "none"
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise DamagedError(f"{folder / 'state.json'}: not what a checkpoint says: {error!r}") from None
    tokenizer, tokenizer_path = load_tokenizer(arguments.tokenizer or find_tokenizer(folder), read_special=True)
    begin = begin_ids(tokenizer, tokenizer_path, arguments.bos, texts_of_run(folder)[0])
    return Model(name, folder, weights, plan, state["depth_plan"], state["blocks"], injects, positions, tokenizer, tokenizer_path, tuple(begin),
                 tuple(ending_ids(folder, tokenizer, tokenizer_path)))


def _split(word):
    """(name or None, path) of NAME=PATH or PATH. A path that is there, is one."""
    name, equals, path = word.partition("=")
    return (None, Path(word)) if not equals or Path(word).exists() else (name, Path(path))


def _given(words):
    """[(name, path)]; a name that was not given is the run folder's, with the step where two would be called the same."""
    found = [(name, checkpoint_folder(path)) for name, path in map(_split, words)]
    runs = [(folder.resolve().parents[1] if folder.resolve().parent.name == "checkpoints" else folder.resolve()).name for _, folder in found]
    own = [run for (name, _), run in zip(found, runs) if name is None]
    named = []
    for (name, folder), run in zip(found, runs):
        if name == "":
            raise UserError(f"checkpoint: found ={folder}; allowed: PATH or NAME=PATH")
        named.append((name or (run if own.count(run) == 1 else f"{run} {folder.resolve().name}"), folder, name is not None))
    for name, folder, given in named:
        if not given and sum(other == name for other, _, _ in named) > 1:
            raise UserError(f"{folder}: two checkpoints are called {name!r}; name them: NAME={folder}")
    return [(name, folder) for name, folder, _ in named]


def read_models(arguments):
    """{name: [Model of each seed]} of the command's checkpoints, in its order."""
    models = {}
    for name, path in _given(arguments.checkpoints):
        models.setdefault(name, []).append(_read(name, path, arguments))
    for name, seeds in models.items():
        if len({model.weights for model in seeds}) < len(seeds):
            raise UserError(f"{name}: one checkpoint twice; seeds of a model are checkpoints of their own")
        if len({model.plan.calls for model in seeds}) > 1:
            raise UserError(f"{name}: seeds of one model have one plan; found {' and '.join(sorted({model.plan_text for model in seeds}))}")
    return models


def plan_for(text, models):
    """A plan that was given for all of the models, refused where one of them has not its blocks."""
    try:
        plan = plan_of(text)
    except ValueError as error:
        raise UserError(f"--plan: {error}") from None
    for seeds in models.values():
        if max(plan.calls) >= seeds[0].blocks:
            raise UserError(f"--plan: found a call of block {max(plan.calls)}; {seeds[0]} has blocks 0 to {seeds[0].blocks - 1}")
        if seeds[0].injects and plan.loop is None:
            raise UserError(f"--plan: found {text!r}; {seeds[0]} injects into its loop, which has to be the plan's one group, such as {seeds[0].plan_text}")
    return plan.loop_text() if plan.loop else plan.text
