"""A study's file: read with its lines, checked, one of its scales laid over it. What its keys mean: docs/studies.md."""

import copy
import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from command import UserError, read_utf8

SWEEPS = ("loops", "shots", "sft", "cooldown")
QUANTITIES = ("flops", "parameters", "kv")
_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")  # PyYAML takes 1e-3 for a text, configs for a number
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_SAME = re.compile(r"(?P<what>\w+(?:\s*(?:,|and)\s*\w+)*)\s+of\s+(?P<member>\S+)")

# What each place of the file may hold. A list: its elements; a map from "*": names of the user's own; a type, or several.
_TASKS = {"tasks": list, "shots": (int, list), "items": int, "steps": list, "members": list, "phases": list}
_MEMBER = {"base": str, "set": dict, "same": str, "by": str, "phases": list, "is": str}
_PHASE = {"after": str, "base": str, "from_step": int, "set": dict, "is": str}
_STUDY = {"name": str, "is": str, "seeds": list, "prepare": [{"makes": str, "run": str}], "set": dict, "members": {"*": _MEMBER}, "phases": {"*": _PHASE},
          "evaluate": [_TASKS], "analyze": {"signatures": list, "options": str, "members": list, "phases": list}, "compare": list, "agreement": list,
          "sweeps": {"*": {"sweep": str, "members": list, "phase": str, "options": str}},
          "parts": {"*": {"is": str, "members": list, "phases": list, "sweeps": list}}, "scale": {"*": dict}}
_NAMES_OF_TYPES = {str: "a text", int: "a whole number", list: "a list", dict: "a map", bool: "true or false"}


class Lines(dict):
    """Path in the file, as `members.lidas.base`: its line."""

    def place(self, file, path):
        while path and path not in self:
            path = path.rpartition(".")[0]
        return f"{file}:{self.get(path, 1)}"


def read_with_lines(file):
    """(data, Lines) of a YAML file; a key twice in a map is refused."""
    try:
        root = yaml.compose(read_utf8(file), Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise UserError(f"{file}:{mark.line + 1 if mark else 1}: not YAML: {getattr(error, 'problem', None) or error}") from None
    if root is None:
        raise UserError(f"{file}:1: is empty; members are needed")
    lines = Lines()
    return _built(root, "", file, lines), lines


def _built(node, path, file, lines):
    constructor = yaml.SafeLoader("")
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        return [_built(child, f"{path}.{number}", file, lines) for number, child in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        built = {}
        for key_node, child in node.value:
            key, line = constructor.construct_object(key_node), key_node.start_mark.line + 1
            if key in built:
                raise UserError(f"{file}:{line}: {key}: stands there twice")
            own = f"{path}.{key}".lstrip(".")
            lines[own] = line
            built[key] = _built(child, own, file, lines)
        return built
    value = constructor.construct_object(node)
    return float(value) if isinstance(value, str) and node.style is None and _EXPONENT.fullmatch(value) else value


def value_of(text):
    """Of key=value on a command line; what is no YAML is a text."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        return text
    return None if root is None else _built(root, "", "argument", Lines())


@dataclass
class Same:
    quantities: tuple
    member: str


@dataclass
class Member:
    name: str
    base: Path
    settings: dict
    phases: dict  # name: settings of the member's own on top of the phase's
    same: Same = None
    by: str = None
    text: str = ""


@dataclass
class Phase:
    name: str
    after: str = None
    base: Path = None      # a config of its own: weights come from the phase before, nothing else does
    from_step: int = None  # of the phase before: the step at which this one leaves it
    settings: dict = field(default_factory=dict)
    text: str = ""


@dataclass
class Study:
    file: Path
    name: str
    text: str
    seeds: list
    prepare: list
    members: dict
    phases: dict
    evaluate: list
    analyze: dict
    compare: list
    agreement: list
    sweeps: dict
    parts: dict
    scale: str = None


def flattened(settings, path=""):
    """{key of a config: value}. Under a plain key maps merge, as under `include`; a path with a dot replaces what stands there, as on the command line."""
    flat = {}
    for key, value in settings.items():
        if isinstance(value, dict) and value and "." not in key and "[" not in key:
            flat |= flattened(value, f"{path}{key}.")
        else:
            flat[path + key] = value
    return flat


def merged(under, over):
    """Maps merge, everything else is replaced."""
    if not isinstance(under, dict) or not isinstance(over, dict):
        return copy.deepcopy(over)
    return {**under, **{key: merged(under[key], value) if key in under else copy.deepcopy(value) for key, value in over.items()}}


class _Reader:
    def __init__(self, file):
        self.file = file
        self.data, self.lines = read_with_lines(file)

    def refuse(self, path, found, allowed):
        raise UserError(f"{self.lines.place(self.file, path)}: {path}: found {found}; allowed: {allowed}")

    def check(self, value, form, path):
        """Keys and types against a form of above."""
        if isinstance(form, dict):
            if not isinstance(value, dict):
                self.refuse(path, json.dumps(value, default=str), "a map")
            for key, each in value.items():
                own = f"{path}.{key}".lstrip(".")
                if "*" in form:
                    if not _NAME.fullmatch(str(key)):
                        self.refuse(own, repr(key), "letters, digits, _ . -")
                elif key not in form:
                    self.refuse(own, "an unknown key", ", ".join(form))
                self.check(each, form.get("*", form.get(key)), own)
        elif isinstance(form, list):
            if not isinstance(value, list):
                self.refuse(path, json.dumps(value, default=str), "a list")
            for number, each in enumerate(value):
                self.check(each, form[0], f"{path}.{number}")
        else:
            kinds = form if isinstance(form, tuple) else (form,)
            if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
                self.refuse(path, json.dumps(value, default=str), " or ".join(_NAMES_OF_TYPES[kind] for kind in kinds))

    def one_of(self, path, found, known):
        if found not in known:
            self.refuse(path, repr(found), ", ".join(map(str, known)) or "none is there")
        return found

    def scaled(self, scale):
        known = self.data.get("scale") or {}
        if scale is None:
            return self.data
        if scale not in known:
            raise UserError(f"--scale: found {scale!r}; allowed: {', '.join(known) or f'none: {self.file} has no section scale'}")
        data = merged({key: value for key, value in self.data.items() if key != "scale"}, known[scale])
        self.check(data, _STUDY, "")
        return data

    def overridden(self, data, overrides):
        """`study.KEY=value` is for the study itself; everything else is for the configs. Returns (data, {key of a config: value})."""
        configs = {}
        for argument in overrides:
            key, equals, text = argument.partition("=")
            if not equals or not key:
                raise UserError(f"found {argument!r}; allowed: key=value, or study.key=value for the study's own keys")
            value = value_of(text)
            if not key.startswith("study."):
                configs[key] = value
                continue
            change = value
            for part in reversed(key.split(".")[1:]):
                change = {part: change}
            data = merged(data, change)
            try:
                self.check(data, _STUDY, "")
            except UserError as error:
                raise UserError(f"argument {argument!r}: {str(error).partition(': ')[2]}") from None
        return data, configs


def _phase_of(reader, name, said):
    base = said.get("base")
    if "after" not in said and name != "pretrain":
        reader.refuse(f"phases.{name}", "no `after`", "the name of the phase that it goes on from")
    if base is not None and "from_step" in said:
        reader.refuse(f"phases.{name}.from_step", "a `base` beside it", "one of them: `from_step` branches, `base` begins a run of its own from the weights")
    return Phase(name, said.get("after"), reader.file.parent / base if base else None, said.get("from_step"), flattened(said.get("set", {})), said.get("is", ""))


def _same_of(reader, path, text, members):
    match = _SAME.fullmatch(text.strip())
    quantities = tuple(re.split(r"\s*,\s*|\s+and\s+|\s+", match["what"])) if match else ()
    if not match or not set(quantities) <= set(QUANTITIES):
        reader.refuse(path, repr(text), f'"{" | ".join(QUANTITIES)} of MEMBER", several joined by commas')
    reader.one_of(path, match["member"], [name for name in members if name != path.split(".")[1]])
    return Same(quantities, match["member"])


def _member_of(reader, name, said, common, phases, members):
    path = f"members.{name}"
    if "base" not in said:
        reader.refuse(path, "no `base`", "the config of the run, relative to this file")
    base = reader.file.parent / said["base"]
    if not base.is_file():
        reader.refuse(f"{path}.base", f"{base}, which does not exist", "a config")
    own = {}
    for number, entry in enumerate(said.get("phases", ["pretrain"])):
        entry = {entry: {}} if isinstance(entry, str) else entry
        if not isinstance(entry, dict) or len(entry) != 1:
            reader.refuse(f"{path}.phases.{number}", repr(entry), "the name of a phase, or {NAME: {key: value}} with settings of the member's own")
        (phase, settings), = entry.items()
        reader.one_of(f"{path}.phases.{number}", phase, phases)
        after = phases[phase].after
        if after is not None and after not in own:
            reader.refuse(f"{path}.phases.{number}", f"{phase} without {after} before it", f"{after}, then {phase}")
        own[phase] = flattened(settings or {})
    same = _same_of(reader, f"{path}.same", said["same"], members) if "same" in said else None
    if "by" in said and same is None:
        reader.refuse(f"{path}.by", "no `same` beside it", "both")
    return Member(name, base, {**flattened(common), **flattened(said.get("set", {}))}, own, same, said.get("by"), said.get("is", ""))


def _check_names(reader, data, members, phases):
    """Every name that is used is one that the file has."""
    targets = list(members) + [f"{member.name}/{phase}" for member in members.values() for phase in member.phases]
    for key, count in (("compare", 2), ("agreement", 3)):
        for number, entry in enumerate(data.get(key, [])):
            if not isinstance(entry, list) or len(entry) != count:
                reader.refuse(f"{key}.{number}", repr(entry), f"{count} names: members, or MEMBER/PHASE")
            for name in entry:
                reader.one_of(f"{key}.{number}", name, targets)
    places = [(f"evaluate.{number}", entry) for number, entry in enumerate(data.get("evaluate", []))]
    places += [(f"parts.{name}", part) for name, part in data.get("parts", {}).items()] + [("analyze", data.get("analyze", {}))]
    for path, entry in places:
        for key, known in (("members", members), ("phases", phases), ("sweeps", data.get("sweeps", {}))):
            for name in entry.get(key, []):
                reader.one_of(f"{path}.{key}", name, known)


@dataclass
class Sweep:
    name: str
    kind: str
    members: list
    phase: str
    options: list  # words of the command


def _sweeps_of(reader, data, members):
    found = {}
    for name, said in data.get("sweeps", {}).items():
        path = f"sweeps.{name}"
        reader.one_of(f"{path}.sweep", said.get("sweep"), SWEEPS)
        phase, own = said.get("phase", "pretrain"), said.get("members", [])
        if not own:
            reader.refuse(path, "no `members`", f"some of {', '.join(members)}")
        for member in own:
            reader.one_of(f"{path}.members", member, [each.name for each in members.values() if phase in each.phases])
        found[name] = Sweep(name, said["sweep"], own, phase, shlex.split(said.get("options", "")))
    return found


def _check_matches(reader, members):
    """No circle of members that are matched with one another."""
    for member in members.values():
        seen, at = [], member
        while at.same:
            seen.append(at.name)
            at = members[at.same.member]
            if at.name in seen:
                reader.refuse(f"members.{member.name}.same", f"a circle: {', '.join([*seen, at.name])}", "a member that is not matched with this one")


def _seeds_of(reader, data):
    seeds = data.get("seeds", [1, 2, 3])
    if not seeds or not all(isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 for seed in seeds) or len(set(seeds)) != len(seeds):
        reader.refuse("seeds", json.dumps(seeds, default=str), "at least one, each a whole number from 0 on, none twice")
    return seeds


def _check_tasks(reader, evaluate):
    from evaluation.primitives import task_names

    for number, entry in enumerate(evaluate):
        path = f"evaluate.{number}"
        if not entry.get("tasks"):
            reader.refuse(path, "no `tasks`", "names of primitives, JSONL files")
        for task in entry["tasks"]:
            if task not in task_names() and not Path(str(task)).suffix == ".jsonl":
                reader.refuse(f"{path}.tasks", repr(task), f"a JSONL file, {', '.join(task_names())}")
        shots = entry.get("shots", 0)
        if not all(isinstance(count, int) and count >= 0 for count in (shots if isinstance(shots, list) else [shots])):
            reader.refuse(f"{path}.shots", repr(shots), "whole numbers from 0 on")
        if not all(isinstance(step, int) and step > 0 for step in entry.get("steps", [])):
            reader.refuse(f"{path}.steps", repr(entry["steps"]), "steps at which the run writes a checkpoint")
        if entry.get("items", 1) < 1:
            reader.refuse(f"{path}.items", entry["items"], "at least 1")


def read_study(file, scale=None, overrides=()):
    """The study of a file at one of its scales. `overrides`: words key=value, for the config of every member or, as study.key=value, for the study."""
    file = Path(file)
    if not file.is_file():
        raise UserError(f"{file}: no such file; a study is needed (docs/studies.md)")
    reader = _Reader(file)
    reader.check(reader.data, _STUDY, "")
    data, of_configs = reader.overridden(reader.scaled(scale), overrides)
    if not data.get("members"):
        reader.refuse("members", "none", "at least one: {NAME: {base: CONFIG}}")
    phases = {name: _phase_of(reader, name, said or {}) for name, said in ({"pretrain": {}} | data.get("phases", {})).items()}
    for phase in phases.values():
        if phase.after is not None:
            reader.one_of(f"phases.{phase.name}.after", phase.after, [name for name in phases if name != phase.name])
        if phase.base is not None and not phase.base.is_file():
            reader.refuse(f"phases.{phase.name}.base", f"{phase.base}, which does not exist", "a config")
    common = flattened(data.get("set", {})) | of_configs
    members = {name: _member_of(reader, name, said, common, phases, data["members"]) for name, said in data["members"].items()}
    _check_names(reader, data, members, phases)
    _check_matches(reader, members)
    _check_tasks(reader, data.get("evaluate", []))
    return Study(file, data.get("name", file.stem), data.get("is", ""), _seeds_of(reader, data), data.get("prepare", []), members, phases, data.get("evaluate", []),
                 data.get("analyze", {}), data.get("compare", []), data.get("agreement", []), _sweeps_of(reader, data, members), data.get("parts", {}), scale)
