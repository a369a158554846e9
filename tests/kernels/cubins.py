#!/usr/bin/env python3
"""Looks at what nvcc made of the kernels, by cuobjdump, in the built library. Needs no GPU; skips itself without cuobjdump.

    cubins.py resources NVCC LIBRARY TABLE [--update]
        Every kernel, for every architecture that is shipped, uses at most the registers and the static shared memory that the committed table
        says, and neither stack nor local memory (a spill would need it). --update writes the table.
    cubins.py disassembly NVCC OBJECT... | --self-test
        The attention kernels use the tensor core (HMMA), ldmatrix (LDSM) and cp.async (LDGSTS), and no LDSM was moved above the barrier and
        the wait that it relies on. This the CPU layer cannot see: it is about the device side's asm.
    cubins.py symbols NM LIBRARY STAND_IN
        Both define the same functions of meristem::kernels, so that a caller links with either; and the library has nothing of the CPU layer.
"""
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


def listed(table):
    """{(kernel, architecture): (registers, static shared bytes)} of the committed table."""
    found = {}
    for line in pathlib.Path(table).read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            kernel, architecture, registers, shared = re.fullmatch(r"(.+?) +(sm_\w+) +(\d+) +(\d+)", line).groups()
            found[kernel, architecture] = int(registers), int(shared)
    return found


def over(found, most):
    """What goes beyond the table, or is not in both."""
    wrong = [f"{' '.join(which)}: only in the table" for which in most.keys() - found.keys()]
    wrong += [f"{' '.join(which)}: not in the table" for which in found.keys() - most.keys()]
    for which in sorted(found.keys() & most.keys()):
        registers, stack, local, shared = found[which]
        if registers > most[which][0] or shared > most[which][1]:
            wrong.append(f"{' '.join(which)}: {registers} registers, {shared} bytes of static shared memory; at most {most[which]}")
    wrong += [f"{' '.join(which)}: stack {stack}, local {local} bytes" for which, (_, stack, local, _) in found.items() if stack or local]
    return wrong


def check_resources(nvcc, library, table, update=False):
    found = resources(find_cuobjdump(nvcc), library)
    if update:
        lines = [f"# {'kernel':38} {'arch':6} {'registers':>9} {'static shared':>14}   at most; written by cubins.py resources --update; nvcc 13.0"]
        lines += [f"{kernel:40} {architecture:6} {registers:9} {shared:14}"
                  for (kernel, architecture), (registers, _, _, shared) in sorted(found.items())]
        pathlib.Path(table).write_text("\n".join(lines) + "\n", encoding="utf-8")
    wrong = over(found, listed(table))
    if not found:
        wrong.append("the library holds no kernel")
    print(f"{len(found)} kernels")
    for line in wrong:
        print("FAILED:", line)
    return bool(wrong)


def loops(code):
    """(first, last) addresses of every backward branch's span."""
    spans = []
    for address, instruction in code:
        words = instruction.replace(",", " ").split()
        if any(word.split(".")[0] == "BRA" for word in words) and words[-1].startswith("0x"):
            target = int(words[-1], 16)
            if target < address:
                spans.append((target, address))
    return spans


def is_a(instruction, name):
    words = instruction.split()
    opcode = words[1] if words[0].startswith("@") else words[0]
    return opcode.split(".")[0] == name


def places(code, name):
    return [address for address, instruction in code if is_a(instruction, name)]


def faults(code):
    found = []
    counts = {name: len(places(code, name)) for name in ("HMMA", "LDSM", "LDGSTS", "LDGDEPBAR", "DEPBAR", "BAR")}
    found += [f"no {name}" for name, count in counts.items() if count == 0]
    if found:
        return found, counts
    barriers, waits, loads = places(code, "BAR"), places(code, "DEPBAR"), places(code, "LDSM")
    if min(loads) < min(barriers) or min(loads) < min(waits):
        found.append(f"an LDSM at {min(loads):#x} stands before the first barrier or wait")
    # The innermost loop around each barrier: nothing is loaded between its head and the barrier.
    for barrier in barriers:
        around = [span for span in loops(code) if span[0] <= barrier <= span[1]]
        if around:
            head = max(around)[0]
            early = [load for load in loads if head <= load < barrier]
            if early:
                found.append(f"{len(early)} LDSM between the loop's head {head:#x} and its barrier {barrier:#x}")
    return found, counts


def self_test():
    """The order that a sound kernel has, and the ways to spoil it; and what goes beyond a table."""
    def code(*instructions):
        return [(16 * i, instruction) for i, instruction in enumerate(instructions)]

    start, loop = ("LDGSTS.E [R1], [R2]", "LDGDEPBAR"), ("DEPBAR.LE SB0, 0x0", "BAR.SYNC 0x0", "@P1 LDSM.16.M88.4 R4, [R1]", "HMMA.16816 R4, R4, R4, R4")
    sound = code(*start, *loop, "@P0 BRA 0x20", "EXIT")
    early = code(*start, loop[2], *loop, "@P0 BRA 0x30", "EXIT")
    in_loop = code(*start, *loop, loop[2], *loop, "@P0 BRA 0x60", "EXIT")
    no_wait = code(*start, *loop[1:], "@P0 BRA 0x20", "EXIT")
    wrong = [name for name, bad in (("early", early), ("in the loop", in_loop), ("no wait", no_wait)) if not faults(bad)[0]]
    if faults(sound)[0]:
        wrong.append("sound")
    most = {("kernel<64>", "sm_80"): (100, 0)}
    for fewer, found in ((True, (99, 0, 0, 0)), (True, (100, 0, 0, 0)), (False, (101, 0, 0, 0)), (False, (100, 0, 8, 0)), (False, (100, 0, 0, 16))):
        if fewer == bool(over({("kernel<64>", "sm_80"): found}, most)):
            wrong.append(f"resources {found}")
    if not over({}, most) or not over({("other", "sm_80"): (1, 0, 0, 0), **{which: (1, 0, 0, 0) for which in most}}, most):
        wrong.append("a kernel in one of the two alone")
    print("FAILED: " + ", ".join(wrong) if wrong else "each fault is found")
    return bool(wrong)


def check_disassembly(nvcc, *objects):
    failed = False
    seen = 0
    codes = {}
    for built in objects:
        codes |= disassembly(find_cuobjdump(nvcc), built)
    for (kernel, architecture), code in sorted(codes.items()):
        if not kernel.startswith("attention_") or kernel.startswith("attention_delta"):
            continue
        seen += 1
        found, counts = faults(code)
        print(kernel, architecture, " ".join(f"{name} {count}" for name, count in counts.items()))
        for fault in found:
            print(f"FAILED: {kernel} {architecture}: {fault}")
            failed = True
    if seen == 0:
        print("FAILED: no attention kernel in", *objects)
    return failed or seen == 0


def functions(nm, library):
    """External functions of the namespace, without what nvcc makes of kernels."""
    listed = run(nm, "-C", "--defined-only", "--extern-only", library).splitlines()
    names = (match[1] for line in listed if (match := re.match(r"[0-9a-f]* T (.*)", line)))
    return {name for name in names if re.match(r"meristem::kernels::[a-z_]+(\[abi:cxx11\])?\(", name)}


def check_symbols(nm, library, stand_in):
    with_cuda, without = functions(nm, library), functions(nm, stand_in)
    wrong = [f"only with CUDA: {name}" for name in sorted(with_cuda - without)] + [f"only without: {name}" for name in sorted(without - with_cuda)]
    if not with_cuda:
        wrong.append(f"{library} defines nothing")
    of_layer = [line for line in run(nm, "-C", library).splitlines() if "kernels::device::host::" in line]
    if of_layer:
        wrong.append(f"the CUDA library holds code for the CPU layer: {of_layer[0]}")
    print("\n".join(sorted(with_cuda)))
    for line in wrong:
        print("FAILED:", line)
    return bool(wrong)


def main():
    command, *given = sys.argv[1:]
    if given == ["--self-test"]:
        return self_test()
    if command == "disassembly":
        return check_disassembly(*given)
    if command == "symbols":
        return check_symbols(*given)
    return check_resources(*given[:3], update="--update" in given)


if __name__ == "__main__":
    sys.exit(main())
