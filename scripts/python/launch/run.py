"""`meristem train RUN.yaml … --nproc N`: the program once a rank on this machine, as torchrun would start it. What differs from torchrun is how it ends:
with the exit code and the one line of the rank that failed first (agent.py). MERISTEM_BINARY names the program."""

import contextlib
import logging
import os
import re
import tempfile
import warnings

from command import UserError, reported
from cpus import usable_cpus

OPTIONS = ("--nproc", "--max-restarts", "--logs")
MOST_RANKS = 256  # of one machine without GPUs: beyond it is a slip of the finger


def split(arguments):
    """(the launcher's own options as a dictionary, the other words in their order)."""
    own, others = {}, []
    words = iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if name not in OPTIONS:
            others.append(word)
            continue
        if not equals:
            value = next(words, None)
            if value is None:
                raise UserError(f"{name}: a value is missing")
        own[name] = value
    return own, others


def whole_number(own, name, default, least, most):
    text = own.get(name, str(default))
    if not re.fullmatch(r"[0-9]{1,9}", text) or not least <= int(text) <= most:
        raise UserError(f'{name} "{text}": allowed are whole numbers from {least} to {most}')
    return int(text)


def count_gpus():
    """GPUs that a process started here would see (CUDA_VISIBLE_DEVICES counts), 0 where there is none."""
    import torch

    return torch.cuda.device_count()


def share_cores(ranks):
    """Threads of each rank, unless OMP_NUM_THREADS says it: together they have the cores of this process, not each of them all."""
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cpus() // ranks)))


@contextlib.contextmanager
def log_folder(path):
    """Where ranks write what is not shown: `path`, which stays, or a folder that goes afterwards."""
    if path is None:
        with tempfile.TemporaryDirectory(prefix="meristem-ranks-") as folder:
            yield folder
    else:
        os.makedirs(path, exist_ok=True)
        yield path


@reported
def main(argv):
    own, arguments = split(argv)
    ranks = whole_number(own, "--nproc", 1, 1, MOST_RANKS)
    restarts = whole_number(own, "--max-restarts", 0, 0, 1_000_000)
    # Nothing but the line that counts is to be read at the end. Those of the agent are about itself.
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    gpus = count_gpus()
    if 0 < gpus < ranks:
        raise UserError(f"--nproc {ranks}: this machine shows {gpus} GPU{'s' if gpus > 1 else ''}, and each rank needs one of its own")
    share_cores(ranks)
    program = os.environ["MERISTEM_BINARY"]
    if "--dry-run" in arguments:  # tries one rank of so many, in this process
        asked = any(word.partition("=")[0] == "--ranks" for word in arguments)
        os.execv(program, [program, *arguments, *([] if asked or ranks == 1 else ["--ranks", str(ranks)])])

    from launch.agent import launch  # PyTorch takes a second or two to load: bad arguments need not wait for it

    with log_folder(own.get("--logs")) as folder:
        return launch([program, *arguments], ranks, restarts, folder)
