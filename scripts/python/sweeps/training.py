"""The runs of a sweep that trains: each a run folder under DIR/runs, made by `meristem train` and its key=value arguments, taken up again where it was stopped."""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from command import Bar, UserError, read_utf8
from sweeps.models import read_models

NAME = re.compile(r"[A-Za-z0-9._-]+")


def add_arguments(parser, config, default=None):
    parser.add_argument("--config", type=Path, required=default is None, default=default, help=config)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a key of the config, for all runs; may be given several times")


def check(arguments):
    if not arguments.config.is_file():
        raise UserError(f"--config: {arguments.config}: no such file")
    for word in arguments.set:
        if "=" not in word:
            raise UserError(f"--set: found {word!r}; allowed: KEY=VALUE")


def run_name(*words):
    """One that a folder may have."""
    return "-".join(re.sub(r"[^A-Za-z0-9._-]+", "_", str(word)) for word in words)


def read_config(path, seen=()):
    """{section: what the file, or those that it includes, say}; only to learn which phases and variants there are, since YAML reads some numbers as texts."""
    try:
        document = yaml.safe_load(read_utf8(path)) or {}
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    if not isinstance(document, dict):
        raise UserError(f"{path}: found {type(document).__name__}; allowed: the sections of a run")
    base = document.pop("include", None)
    if base is None or path in seen:
        return document
    return read_config(path.parent / str(base), (*seen, path)) | document


def number_of(arguments, section, key):
    """What --set, else the config, says of a whole number; None where neither does."""
    given = [word.partition("=")[2] for word in arguments.set if word.partition("=")[0] == f"{section}.{key}"]
    found = given[-1] if given else (read_config(arguments.config).get(section) or {}).get(key)
    if found is not None and not str(found).isdecimal():
        raise UserError(f"{section}.{key}: found {found!r}; allowed: a whole number")
    return None if found is None else int(found)


class Runs:
    """`total`: how many there are, for the bar."""

    def __init__(self, out, config, settings, total):
        self.out, self.config, self.settings, self.bar, self.done, self.total = out, config, settings, Bar("runs"), 0, total

    def command(self, name, words):
        return [os.environ["MERISTEM_BINARY"], "train", str(self.config), f"run.out={self.out / 'runs'}", f"run.name={name}", *self.settings, *words]

    def check(self, name, words):
        """Whether it could start: config, checkpoint and data. Writes nothing."""
        done = subprocess.run([*self.command(name, words), "--dry-run"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            sys.stderr.write("".join(line for line in done.stderr.splitlines(keepends=True) if line.startswith("meristem: error")) or done.stderr)
            raise SystemExit(done.returncode)

    def train(self, name, words, folder=None):
        """The folder of the finished run. `folder`: what it is called, where that is not its name. Ends this command as the run ended, where that was no success."""
        folder = self.out / "runs" / (folder or name)
        self.bar.show(self.done, self.total)
        (self.out / "logs").mkdir(parents=True, exist_ok=True)
        with (self.out / "logs" / f"{folder.name}.txt").open("a") as log, tempfile.TemporaryFile("w+") as said:
            code = _patient([*self.command(name, words), "--resume", "auto"], log, said)
            said.seek(0)
            errors = said.read()
            log.write(errors)
        self.done += 1
        if code != 0 or self.done == self.total:
            self.bar.clear()
        if code != 0:
            sys.stderr.write("".join(errors.splitlines(keepends=True)[-1:]))
            raise SystemExit(code if code > 0 else 128 - code)
        return folder


def _patient(command, log, said):
    """The run's exit code. A Ctrl-C reaches it too: it saves and ends, and so do we, but not before it."""
    environment = {key: value for key, value in os.environ.items() if key != "MERISTEM_PYTHON"}  # nobody looks at so many runs' plots
    child = subprocess.Popen(command, stdout=log, stderr=said, env=environment)
    while True:
        try:
            return child.wait()
        except KeyboardInterrupt:
            continue


def trained_model(folder, origin, arguments):
    """Of a finished run, which began from the model `origin` and has its name and tokenizer."""
    own = type(arguments)(**vars(arguments))
    own.checkpoints, own.tokenizer = [f"{origin.name}={folder}"], origin.tokenizer_path
    [[model]] = read_models(own).values()
    return model
