#!/usr/bin/env python3
"""resource_usage.py NVCC LIBRARY TABLE [--update]: every kernel, for every architecture that is shipped, uses the registers and the static
shared memory that the committed table says, and neither stack nor local memory (a spill would need it). --update writes the table."""
import sys

import cubins


def main():
    nvcc, library, table = sys.argv[1:4]
    found = cubins.resources(cubins.find_cuobjdump(nvcc), library)
    lines = [f"{kernel:40} {architecture:6} {registers:9} {shared:14}"
             for (kernel, architecture), (registers, _, _, shared) in sorted(found.items())]
    if "--update" in sys.argv[4:]:
        header = f"# {'kernel':38} {'arch':6} {'registers':>9} {'static shared':>14}   written by resource_usage.py --update; nvcc 13.0"
        with open(table, "w", encoding="utf-8") as out:
            out.write("\n".join([header, *lines]) + "\n")
    with open(table, encoding="utf-8") as committed:
        expected = [line.rstrip("\n") for line in committed if not line.startswith("#")]
    wrong = [f"only in the table: {line}" for line in expected if line not in lines]
    wrong += [f"only in the build: {line}" for line in lines if line not in expected]
    wrong += [f"{kernel} {architecture}: stack {stack}, local {local} bytes"
              for (kernel, architecture), (_, stack, local, _) in found.items() if stack or local]
    print("\n".join(lines))
    if not found:
        wrong.append("the library holds no kernel")
    for line in wrong:
        print("FAILED:", line)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
