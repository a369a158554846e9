#!/usr/bin/env python3
"""disassembly.py NVCC LIBRARY | --self-test: the attention kernels use the tensor core (HMMA), ldmatrix (LDSM) and cp.async (LDGSTS), and no LDSM was moved
above the barrier and the wait that it relies on. This the CPU layer cannot see: it is about the device side's asm."""
import sys

import cubins


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
    """The order that a sound kernel has, and the ways to spoil it."""
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
    print("FAILED: " + ", ".join(wrong) if wrong else "each fault is found")
    return bool(wrong)


def main():
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    nvcc, library = sys.argv[1:3]
    failed = False
    seen = 0
    for (kernel, architecture), code in sorted(cubins.disassembly(cubins.find_cuobjdump(nvcc), library).items()):
        if not kernel.startswith("attention_") or kernel.startswith("attention_delta"):
            continue
        seen += 1
        found, counts = faults(code)
        print(kernel, architecture, " ".join(f"{name} {count}" for name, count in counts.items()))
        for fault in found:
            print(f"FAILED: {kernel} {architecture}: {fault}")
            failed = True
    if seen == 0:
        print("FAILED: no attention kernel in", library)
    return failed or seen == 0


if __name__ == "__main__":
    sys.exit(main())
