#!/usr/bin/env python3
"""Who may include whom. Reads every #include under src/ and kernels/ and fails, naming file:line, where one goes the wrong way.

    include_direction.py [ROOT]      ROOT: the repository, default two folders up
    include_direction.py --self-test plants wrong includes in a temporary tree and fails unless each is caught

The rule in words is docs/architecture.md; this table is the one that counts. Entries are not transitive: an include needs its own.
"""
import pathlib
import re
import sys
import tempfile

# Room: the rooms that it may include beside itself.
BEFORE_RUN = "core depth growth config ops nn optim models data distributed checkpoint interop metrics eval analysis step"
TABLE = {
    "core": "",
    "depth": "core",
    "growth": "core depth",
    "config": "core depth",
    "ops": "core kernels",
    "nn": "core config ops",
    "optim": "core config ops",
    "models": "core depth config nn optim",
    "data": "core config",
    "distributed": "core config ops optim",
    "checkpoint": "core depth config",
    "interop": "core config checkpoint",
    "metrics": "core",
    "eval": "core models data",
    "analysis": "core depth models eval",
    "step": "core depth growth config ops nn models data optim distributed",
    "run": BEFORE_RUN,
    "cli": BEFORE_RUN + " run kernels",
}
MAY_USE = {room: set(rooms.split()) | {room} for room, rooms in TABLE.items()}

# Compiled in seconds and fuzzed under sanitizers, because LibTorch is not in them.
TORCH_FREE_ROOMS = {"core", "depth", "config", "data", "checkpoint", "interop", "metrics"}
# These belong to second targets of their rooms, `tensors` and `checkpoint_tensors`, which need LibTorch.
TENSOR_FILES = {"core/named_tensors.h", "core/named_tensors.cpp", "checkpoint/tensors.h", "checkpoint/tensors.cpp"}
TORCH_FOLDERS = {"torch", "ATen", "c10", "c10d", "caffe2"}

SUFFIXES = {".h", ".hpp", ".inl", ".cpp", ".cc", ".cu", ".cuh"}
INCLUDE = re.compile(r'^\s*#\s*include\b\s*(.*)$')
NAMED = re.compile(r'["<]([^">]+)[">]')


def includes(path):
    """(line number, name, quoted) of every #include; the name is None where it is not written out."""
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        found = INCLUDE.match(line)
        if not found:
            continue
        named = NAMED.match(found[1])
        yield number, named[1] if named else None, found[1].startswith('"')


def room_of(name):
    """The room that an include names; "kernels" for the kernels' public headers, None for anything that is not ours."""
    first = name.split("/")[0] if "/" in name else None
    if first == "meristem_kernels":
        return "kernels"
    return first if first in TABLE else None


def is_torch(name):
    return name.split("/")[0] in TORCH_FOLDERS


def check_src(file, room, name, quoted):
    if is_torch(name) and file.endswith((".cu", ".cuh")):
        return "no header of LibTorch in CUDA code: it costs two minutes a file"
    if room in TORCH_FREE_ROOMS and file not in TENSOR_FILES:
        if is_torch(name):
            return f"no header of LibTorch in room {room}"
        if name in TENSOR_FILES:
            return f"{name} needs LibTorch; room {room} is without it"
    called = room_of(name)
    if called is None:
        return 'includes of ours are written "room/file.h"' if quoted else None
    if called not in MAY_USE[room]:
        allowed = " ".join(sorted(MAY_USE[room] - {room})) or "no other room"
        return f"room {room} may not include {called}; allowed: {allowed}"
    return None


def check_kernels(root, name, quoted):
    if is_torch(name):
        return "no header of LibTorch in kernels/: raw pointers, integers and a stream"
    own = any((root / "kernels" / folder / name).is_file() for folder in ("", "include"))
    if room_of(name) not in (None, "kernels") and not own:
        return "kernels/ includes nothing from src/"
    return 'kernels/ includes its own headers as "kernel/file.h" or "meristem_kernels/file.h"' if quoted and not own else None


def violations(root):
    """"file:line: message" for every include that goes the wrong way."""
    found = []
    for folder in sorted(path for path in (root / "src").iterdir() if path.is_dir()):
        files = [path for path in sorted(folder.rglob("*")) if path.suffix in SUFFIXES]
        if files and folder.name not in TABLE:
            found.append(f"src/{folder.name}:1: room {folder.name} is not in the table of tests/lint/include_direction.py")
            continue
        for path in files:
            file = path.relative_to(root / "src").as_posix()
            found += report(root, path, lambda name, quoted: check_src(file, folder.name, name, quoted))
    for path in sorted((root / "kernels").rglob("*")):
        if path.suffix in SUFFIXES:
            found += report(root, path, lambda name, quoted: check_kernels(root, name, quoted))
    return found


def report(root, path, check):
    for number, name, quoted in includes(path):
        if name is None:
            message = "an include must name its file"
        elif ".." in name.split("/"):
            message = 'includes go from src/ or kernels/ down, never through ".."'
        else:
            message = check(name, quoted)
        if message:
            yield f"{path.relative_to(root).as_posix()}:{number}: {name}: {message}"


# Planted file, its line 2, and what the report must say about it; None where it is right.
PLANTED = [
    ("src/nn/block.cpp", '#include "nn/block.h"', None),
    ("src/nn/mixer.cpp", '#include "ops/rope.h"', None),
    ("src/depth/plan.cpp", '#include <vector>', None),
    ("src/ops/adamw.cpp", '#include "meristem_kernels/adamw.h"', None),
    ("src/step/update.cpp", '#include <torch/torch.h>', None),
    ("src/core/named_tensors.h", '#include <ATen/core/Tensor.h>', None),
    ("src/checkpoint/tensors.cpp", '#include "core/named_tensors.h"', None),
    ("kernels/adamw/adamw.cu", '#include "meristem_kernels/adamw.h"', None),
    ("kernels/include/meristem_kernels/adamw.h", '#include <cuda_runtime.h>', None),
    ("src/depth/up.cpp", '#include "config/load.h"', "room depth may not include config; allowed: core"),
    ("src/depth/angle.cpp", '#include <config/load.h>', "room depth may not include config"),
    ("src/depth/spaced.cpp", '  #  include "run/run.h"  // why not', "room depth may not include run"),
    ("src/core/low.h", '#include "depth/plan.h"', "room core may not include depth; allowed: no other room"),
    ("src/models/skip.h", '#include "ops/rope.h"', "room models may not include ops"),
    ("src/data/kernel.cpp", '#include "meristem_kernels/adamw.h"', "room data may not include kernels"),
    ("src/run/high.cpp", '#include "cli/commands.h"', "room run may not include cli"),
    ("src/data/deep/er.h", '#include "models/model.h"', "room data may not include models"),
    ("src/nn/relative.cpp", '#include "../run/run.h"', 'never through ".."'),
    ("src/nn/bare.cpp", '#include "block.h"', 'written "room/file.h"'),
    ("src/nn/macro.cpp", "#include HEADER", "must name its file"),
    ("src/depth/torch.cpp", "#include <torch/torch.h>", "no header of LibTorch in room depth"),
    ("src/core/tensor.cpp", "#include <c10/util/Exception.h>", "no header of LibTorch in room core"),
    ("src/data/tensors.cpp", '#include "core/named_tensors.h"', "needs LibTorch; room data is without it"),
    ("src/interop/weights.cpp", '#include "checkpoint/tensors.h"', "needs LibTorch; room interop is without it"),
    ("src/ops/kernel.cu", "#include <ATen/ATen.h>", "no header of LibTorch in CUDA code"),
    ("src/ops/kernel.cuh", "#include <torch/torch.h>", "no header of LibTorch in CUDA code"),
    ("src/lobby/door.h", "#include <vector>", "room lobby is not in the table"),
    ("kernels/adamw/torch.cu", "#include <torch/types.h>", "no header of LibTorch in kernels/"),
    ("kernels/adamw/c10.cuh", "#include <c10/cuda/CUDAStream.h>", "no header of LibTorch in kernels/"),
    ("kernels/adamw/src.cu", '#include "core/errors.h"', "kernels/ includes nothing from src/"),
    ("kernels/adamw/stray.cu", '#include "stray.h"', "kernels/ includes its own headers"),
]


def self_test():
    failures = []
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        for file, line, _ in PLANTED:
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).write_text(f"// planted\n{line}\n")
        found = violations(root)
    for file, line, expected in PLANTED:
        # An unknown room is reported as a whole.
        place = "src/lobby:1:" if file.startswith("src/lobby") else f"{file}:2:"
        said = [text for text in found if text.startswith(place)]
        if (expected is None) != (not said) or (expected and expected not in said[0]):
            failures.append(f"{file}: {line}: expected {expected!r}, found {said}")
    if len(found) != sum(expected is not None for _, _, expected in PLANTED):
        failures.append(f"{len(found)} reports: {found}")
    return failures


def main(arguments):
    if arguments == ["--self-test"]:
        found = self_test()
    else:
        found = violations(pathlib.Path(arguments[0] if arguments else pathlib.Path(__file__).parents[2]))
    passed = "every planted mistake was caught" if arguments == ["--self-test"] else "includes: as they should be"
    print("\n".join(found) if found else passed)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
