"""Reads what nvcc made of the kernels: resources and disassembly, by cuobjdump, from the built library. Needs no GPU."""
import pathlib
import re
import shutil
import subprocess
import sys

SKIPPED = 77  # CTest's SKIP_RETURN_CODE


def find_cuobjdump(nvcc):
    """The toolkit's, one on the PATH, or the one that Triton's wheel (a part of PyTorch's) brings."""
    beside = pathlib.Path(nvcc).parent / "cuobjdump"
    if beside.exists():
        return str(beside)
    if found := shutil.which("cuobjdump"):
        return found
    for folder in map(pathlib.Path, sys.path):
        bundled = folder / "triton/backends/nvidia/bin/cuobjdump"
        if bundled.exists():
            return str(bundled)
    print("SKIPPED: no cuobjdump in the toolkit, on the PATH or in Triton's wheel")
    sys.exit(SKIPPED)


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def kernel_name(mangled):
    """attention_forward_kernel<64> of its mangled name."""
    demangled = run("c++filt", mangled).strip()
    found = re.search(r"(\w+(?:<[^()]*>)?)\((?!anonymous)", demangled)
    return found[1] if found else demangled


def resources(cuobjdump, library):
    """{(kernel, architecture): (registers, stack bytes, local bytes, static shared bytes)}"""
    found, architecture, name = {}, None, None
    for line in run(cuobjdump, "--dump-resource-usage", library).splitlines():
        if match := re.search(r"arch = (sm_\w+)", line):
            architecture = match[1]
        elif match := re.match(r"\s*Function (\S+):", line):
            name = kernel_name(match[1])
        elif match := re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", line):
            registers, stack, shared, local = map(int, match.groups())
            found[name, architecture] = (registers, stack, local, shared)
    return found


def disassembly(cuobjdump, library):
    """{(kernel, architecture): [(address, instruction), …]}"""
    found, architecture, code = {}, None, None
    for line in run(cuobjdump, "-sass", library).splitlines():
        if match := re.search(r"arch = (sm_\w+)", line):
            architecture = match[1]
        elif match := re.match(r"\s*Function : (\S+)", line):
            code = found.setdefault((kernel_name(match[1]), architecture), [])
        elif match := re.match(r"\s*/\*([0-9a-f]{4,})\*/\s+(.*?);", line):
            code.append((int(match[1], 16), match[2]))
    return found
