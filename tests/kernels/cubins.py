#!/usr/bin/env python3
"""Looks at what nvcc made of the kernels, by cuobjdump, in the built library. Needs no GPU; skips itself without cuobjdump.

    cubins.py resources NVCC LIBRARY TABLE [--update]
        Every kernel, for every architecture that is shipped, uses at most the registers and the static shared memory that the committed table
        says, and neither stack nor local memory (a spill would need it). --update writes the table. Its warps are those of an SM that the
        registers leave room for: with as many as before, more registers cost nothing.
    cubins.py disassembly NVCC LIBRARY | --self-test
        The attention kernels use the tensor core (HMMA), ldmatrix (LDSM) and cp.async (LDGSTS), and no LDSM was moved above the barrier and
        the wait that it relies on. What a kernel writes 16 bytes at a time is written by stores of 16 bytes: nvcc likes to cut them into four.
        Loads that a kernel asks for side by side are in flight together, none waiting for a store that does not concern it.
        This the CPU layer cannot see: it is about the device side's asm.
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


def warps(registers, threads):
    """Of an SM, as far as registers go: 65,536 of them, given to a warp 8 a lane at a time; 64 warps at most, whole blocks."""
    of_block = (threads + 31) // 32
    return min(65536 // ((registers + 7) // 8 * 8 * 32), 64) // of_block * of_block


def threads_of(cuobjdump, library):
    """{(kernel, architecture): threads of a block, as its launch bounds say}"""
    found, architecture, name, wanted = {}, None, None, False
    for line in run(cuobjdump, "-elf", library).splitlines():
        if match := re.search(r"arch = (sm_\w+)", line):
            architecture = match[1]
        elif line.startswith(".nv.info."):
            name = kernel_name(line[len(".nv.info."):])
        elif "EIATTR_MAX_THREADS" in line or "EIATTR_REQNTID" in line:
            wanted = True
        elif wanted and (match := re.match(r"\s*Value:\s*0x([0-9a-f]+) ", line)):
            found[name, architecture], wanted = int(match[1], 16), False
    return found


def resources(cuobjdump, library):
    """{(kernel, architecture): (registers, stack bytes, local bytes, static shared bytes, warps)}"""
    found, architecture, name, threads = {}, None, None, threads_of(cuobjdump, library)
    for line in run(cuobjdump, "--dump-resource-usage", library).splitlines():
        if match := re.search(r"arch = (sm_\w+)", line):
            architecture = match[1]
        elif match := re.match(r"\s*Function (\S+):", line):
            name = kernel_name(match[1])
        elif match := re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", line):
            registers, stack, shared, local = map(int, match.groups())
            found[name, architecture] = (registers, stack, local, shared, warps(registers, threads[name, architecture]))
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
    """{(kernel, architecture): (registers, static shared bytes, warps)} of the committed table."""
    found = {}
    for line in pathlib.Path(table).read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            kernel, architecture, *numbers = re.fullmatch(r"(.+?) +(sm_\w+) +(\d+) +(\d+) +(\d+)", line).groups()
            found[kernel, architecture] = tuple(map(int, numbers))
    return found


def over(found, most):
    """What goes beyond the table, or is not in both."""
    wrong = [f"{' '.join(which)}: only in the table" for which in most.keys() - found.keys()]
    wrong += [f"{' '.join(which)}: not in the table" for which in found.keys() - most.keys()]
    for which in sorted(found.keys() & most.keys()):
        registers, stack, local, shared, room = found[which]
        if registers > most[which][0] or shared > most[which][1] or room < most[which][2]:
            wrong.append(f"{' '.join(which)}: {registers} registers, {shared} bytes of static shared memory, {room} warps; listed {most[which]}")
    wrong += [f"{' '.join(which)}: stack {stack}, local {local} bytes" for which, (_, stack, local, *_) in found.items() if stack or local]
    return wrong


def check_resources(nvcc, library, table, update=False):
    found = resources(find_cuobjdump(nvcc), library)
    if update:
        lines = [f"# {'kernel':38} {'arch':6} {'registers':>9} {'static shared':>14} {'warps':>6}   written by cubins.py resources --update; nvcc 13.0"]
        lines += [f"{kernel:40} {architecture:6} {registers:9} {shared:14} {room:6}"
                  for (kernel, architecture), (registers, _, _, shared, room) in sorted(found.items())]
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


# How many LDSM a step's products take between its first barrier and its second; what is loaded behind the second others have written.
LDSM_OF_SCORES = {"attention_backward_tiled_kernel<64>": 48, "attention_backward_tiled_kernel<128>": 64}


def faults(code, between=0):
    """between: the LDSM of a loop that has two barriers, before the second."""
    found = []
    counts = {name: len(places(code, name)) for name in ("HMMA", "LDSM", "LDGSTS", "LDGDEPBAR", "DEPBAR", "BAR")}
    found += [f"no {name}" for name, count in counts.items() if count == 0]
    if found:
        return found, counts
    barriers, waits, loads = places(code, "BAR"), places(code, "DEPBAR"), places(code, "LDSM")
    if min(loads) < min(barriers) or min(loads) < min(waits):
        found.append(f"an LDSM at {min(loads):#x} stands before the first barrier or wait")
    # The innermost loop around each barrier: nothing is loaded between its head and the first, and no more than is meant before another.
    for barrier in barriers:
        around = [span for span in loops(code) if span[0] <= barrier <= span[1]]
        if around:
            head = max(around)[0]
            early = [load for load in loads if head <= load < barrier]
            meant = between if any(head <= other < barrier for other in barriers) else 0
            if len(early) != meant:
                found.append(f"{len(early)} LDSM between the loop's head {head:#x} and its barrier {barrier:#x}, {meant} are meant")
    return found, counts


# Kernels that write rows 16 bytes at a time, and the most narrower stores that each may hold besides. Forms for rows that are not aligned
# (V = 1) are not among them.
NARROW_STORES = {
    r"attention_forward_kernel": 4,  # the log-sum-exp of two row tiles' halves
    r"attention_(backward_(keys|queries|tiled)|round)_kernel": 0,
    r"depth_attention_forward_kernel": 4,  # a log-sum-exp for each of up to four rows
    r"depth_attention_backward_kernel": 0,
    r"expert_(gather|combine)_kernel": 0,
    r"expert_combine_backward_kernel": 4,  # the weights' gradients, four choices at once
    r"rms_norm_forward_kernel<.*, [48], .*>": 1,  # rstd
    r"rms_norm_backward_kernel<.*, [48], .*>": 32,  # the block's row of partial sums
    r"rope_kernel<.*, [48], .*>": 0,
    r"qk_norm_rope_backward_kernel<.*, [48]>": 1,  # the block's row of partial sums
    r"swiglu_(forward|backward)_kernel<.*, [48]>": 0,
    r"cross_entropy_kernel": 8,  # losses, and a row's ends
    r"adamw_kernel": 22,  # two of 8 bytes of the bf16 copy; a tile's ragged end, one element at a time
}


# Kernels whose speed is that of their loads: how many must be on their way before the first is looked at, in the pass before the kernel's
# last barrier and in the one behind it.
LOADS_IN_FLIGHT = {
    r"cross_entropy_kernel": (4, 4),
    r"expert_scan_kernel": (8, 8),
}


def loads_in_flight(code):
    """The most loads from global memory that are issued and not yet read, anywhere in a straight piece of code."""
    most, loaded_by, waiting = 0, {}, set()
    for address, instruction in code:
        words = instruction.split(None, 2 if instruction.startswith("@") else 1)
        arguments = words[-1]
        touched = set(map(int, re.findall(r"\bR(\d+)\b", arguments)))
        loads = is_a(instruction, "LDG")
        first = int(re.match(r"R(\d+)", arguments)[1]) if loads else None
        for register in touched - {first}:
            waiting.discard(loaded_by.pop(register, None))
        if loads:
            count = 4 if ".128" in instruction else 2 if re.search(r"LDG\S*\.64", instruction) else 1
            loaded_by.update(dict.fromkeys(range(first, first + count), address))
            waiting.add(address)
            most = max(most, len(waiting))
        elif any(is_a(instruction, name) for name in ("BRA", "EXIT", "BAR")):
            waiting, loaded_by = set(), {}
    return most


def late_loads(kernel, code):
    wanted = next((least for pattern, least in LOADS_IN_FLIGHT.items() if re.match(pattern, kernel)), None)
    if wanted is None:
        return []
    last = max(places(code, "BAR"))
    found = tuple(loads_in_flight(part) for part in ([one for one in code if one[0] < last], [one for one in code if one[0] > last]))
    return [f"{found[i]} loads in flight {where} the last barrier, at least {wanted[i]}" for i, where in enumerate(("before", "behind"))
            if found[i] < wanted[i]]


def store_widths(code):
    """{bytes: how many} of the stores to global memory"""
    found = {}
    for _, instruction in code:
        if is_a(instruction, "STG"):
            opcode = next(word for word in instruction.split() if word.startswith("STG"))
            width = next((int(part.lstrip("US")) // 8 for part in opcode.split(".") if part in ("128", "64", "U16", "S16", "U8", "S8")), 4)
            found[width] = found.get(width, 0) + 1
    return found


def narrow_stores(kernel, code):
    allowed = next((most for pattern, most in NARROW_STORES.items() if re.match(pattern, kernel)), None)
    if allowed is None:
        return []
    widths = store_widths(code)
    narrow = sum(count for width, count in widths.items() if width < 16)
    wrong = [] if widths.get(16) else ["no store of 16 bytes"]
    return wrong + ([f"{narrow} stores of less than 16 bytes, at most {allowed}"] if narrow > allowed else [])


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
    two = code(*start, *loop, "BAR.SYNC 0x0", loop[2], loop[3], "@P0 BRA 0x20", "EXIT")
    if faults(two, between=1)[0] or not faults(two)[0] or not faults(two, between=2)[0]:
        wrong.append("two barriers")
    if faults(sound)[0]:
        wrong.append("sound")
    store = {16: "STG.E.128 desc[UR4][R2.64], R4", 8: "@!P0 STG.E.64 [R2], R4", 4: "STG.E [R2], R4", 2: "@P1 STG.E.U16 [R2+0x40], R4"}
    if store_widths(code(*store.values())) != dict.fromkeys(store, 1):
        wrong.append("the widths of stores")
    for fewer, kernel, widths in ((True, "expert_gather_kernel", [16, 16]), (False, "expert_gather_kernel", [16, 4]), (False, "rope_kernel<float, 4, true>", []),
                                  (True, "rope_kernel<float, 1, true>", [4]), (True, "attention_forward_kernel<64>", [16, 4, 4, 4, 4])):
        if fewer == bool(narrow_stores(kernel, code(*(store[width] for width in widths)))):
            wrong.append(f"stores of {kernel}")
    def load(i):
        return f"LDG.E.128 R{4 * i}, desc[UR4][R2.64]"

    together = [load(i) for i in (2, 3, 4, 5)] + ["FADD R1, R8, R9", "FADD R1, R12, R20"]
    one_by_one = [line for i in (2, 3, 4, 5) for line in (load(i), f"@P0 FADD R1, R{4 * i + 3}, R1")]
    for least, lines in ((4, together), (1, one_by_one), (2, [load(2), load(3), "BRA 0x10", load(4)])):
        if loads_in_flight(code(*lines)) != least:
            wrong.append(f"loads in flight: {least}")
    sound, late = code(*together, "BAR.SYNC 0x0", *together), code(*together, "BAR.SYNC 0x0", *one_by_one)
    if late_loads("cross_entropy_kernel<float>", sound) or len(late_loads("cross_entropy_kernel<float>", late)) != 1:
        wrong.append("late loads")
    if [warps(*of) for of in ((255, 128), (128, 128), (129, 128), (168, 128), (64, 256), (16, 1024), (96, 192))] != [8, 16, 12, 12, 32, 64, 18]:
        wrong.append("warps of an SM")
    most = {("kernel<64>", "sm_80"): (100, 0, 16)}
    for fewer, found in ((True, (99, 0, 0, 0, 16)), (True, (100, 0, 0, 0, 20)), (False, (101, 0, 0, 0, 16)), (False, (100, 0, 8, 0, 16)),
                         (False, (100, 0, 0, 16, 16)), (False, (100, 0, 0, 0, 12))):
        if fewer == bool(over({("kernel<64>", "sm_80"): found}, most)):
            wrong.append(f"resources {found}")
    if not over({}, most) or not over({("other", "sm_80"): (1, 0, 0, 0, 64), **{which: (1, 0, 0, 0, 64) for which in most}}, most):
        wrong.append("a kernel in one of the two alone")
    print("FAILED: " + ", ".join(wrong) if wrong else "each fault is found")
    return bool(wrong)


def check_disassembly(nvcc, library):
    failed = False
    seen = set()
    for (kernel, architecture), code in sorted(disassembly(find_cuobjdump(nvcc), library).items()):
        found = narrow_stores(kernel, code) + late_loads(kernel, code)
        seen |= {pattern for pattern in NARROW_STORES if re.match(pattern, kernel)}
        if kernel.startswith("attention_") and not kernel.startswith(("attention_delta", "attention_round")):
            of_loop, counts = faults(code, LDSM_OF_SCORES.get(kernel, 0))
            found += of_loop
            print(kernel, architecture, " ".join(f"{name} {count}" for name, count in counts.items()))
        for fault in found:
            print(f"FAILED: {kernel} {architecture}: {fault}")
            failed = True
    for pattern in NARROW_STORES.keys() - seen:
        print(f"FAILED: no {pattern} in {library}")
    return failed or seen != NARROW_STORES.keys()


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
