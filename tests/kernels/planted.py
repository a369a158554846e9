#!/usr/bin/env python3
"""planted.py KERNEL COMPILER: plants each fault of KERNEL/faults.py in a copy of its folder in kernels/, compiles KERNEL/fault_program.cpp
with it for the CPU layer, runs it, and fails unless the program finds the fault and calls it what it is. The source as it stands must be
sound."""
import concurrent.futures
import pathlib
import runpy
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
SECONDS = 120  # for one program's run


class Workshop:
    def __init__(self, kernel, compiler, scratch):
        self.kernel, self.scratch = kernel, scratch
        self.command = [compiler, "-std=c++20", "-O0", "-w"]
        self.folders = [f"-I{ROOT}/kernels", f"-I{ROOT}/kernels/include", f"-I{ROOT}/tests"]
        self.layer = []
        for source in sorted((ROOT / "kernels/device/host").glob("*.cpp")):
            self.layer.append(scratch / (source.stem + ".o"))
            self.run([compiler, "-std=c++20", "-O2", *self.folders, "-c", source, "-o", self.layer[-1]])
        # What all programs include, compiled once.
        (scratch / "common.h").write_text(f'#include "kernels/{kernel}/run.h"\n#include "kernels/fault_program.h"\n', encoding="utf-8")
        self.run([*self.command, *self.folders, "-x", "c++-header", scratch / "common.h"])

    @staticmethod
    def run(command):
        subprocess.run(command, check=True)

    def verdict(self, number, file, text, replacement):
        """The first line of what the program with this fault printed."""
        place = self.scratch / f"fault{number}"
        for folder in {self.kernel, file.split("/")[0]}:  # the kernel's own: its includes look beside themselves first
            shutil.copytree(ROOT / "kernels" / folder, place / folder)
        source = place / file
        original = source.read_text(encoding="utf-8")
        if original.count(text) < 1:
            return f"the text to change is not in {file} any more"
        source.write_text(original.replace(text, replacement, 1), encoding="utf-8")
        build = [*self.command, "-include", self.scratch / "common.h", f"-I{place}", *self.folders,
                 ROOT / f"tests/kernels/{self.kernel}/fault_program.cpp", *self.layer, "-o", place / "program"]
        try:
            compiled = subprocess.run(build, capture_output=True, text=True, check=False)
            if compiled.returncode != 0:
                return "does not compile: " + compiled.stderr[:1000]
            done = subprocess.run([place / "program"], capture_output=True, text=True, timeout=SECONDS, check=False)
            return done.stdout.splitlines()[0] if done.stdout else f"signal: {-done.returncode}"
        except subprocess.TimeoutExpired:
            return f"time: over {SECONDS} s"


def main():
    kernel, compiler = sys.argv[1:3]
    faults = runpy.run_path(str(ROOT / f"tests/kernels/{kernel}/faults.py"))["FAULTS"]
    faults = [("the source as it stands", faults[0][1], "", "", ("sound",)), *faults]
    failed = False
    with tempfile.TemporaryDirectory() as scratch, concurrent.futures.ThreadPoolExecutor(2) as pool:
        shop = Workshop(kernel, compiler, pathlib.Path(scratch))
        verdicts = pool.map(lambda item: shop.verdict(item[0], *item[1][1:4]), enumerate(faults))
        for (name, *_, expected), verdict in zip(faults, verdicts):
            good = verdict.split(":")[0] in expected
            failed |= not good
            print(f"{'found' if good else 'FAILED, expected ' + ' or '.join(expected)}: {name}: {verdict[:1000]}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
