#!/usr/bin/env python3
"""planted.py COMPILER [KERNEL[:TEXT] …]: plants each fault of faults.py in a copy of kernels/, compiles faults/KERNEL.cpp with it for the CPU
layer, runs it, and fails unless the program finds the fault and calls it what it is. The source as it stands must be sound."""
import concurrent.futures
import pathlib
import shutil
import subprocess
import sys
import tempfile

from faults import FAULTS

ROOT = pathlib.Path(__file__).resolve().parents[3]
SECONDS = 120  # for one program's run
AS_IT_STANDS = ("the source as it stands", None, "", "", ("sound",))


def compile_layer(compiler, scratch):
    layer = []
    for source in sorted((ROOT / "kernels/device/host").glob("*.cpp")):
        layer.append(scratch / (source.stem + ".o"))
        subprocess.run([compiler, "-std=c++20", "-O2", f"-I{ROOT}/kernels", "-c", source, "-o", layer[-1]], check=True)
    return layer


def verdict(compiler, layer, place, kernel, fault):
    """The first line of what the program with this fault printed."""
    _, file, text, replacement, _ = fault
    shutil.copytree(ROOT / "kernels", place / "kernels")
    if file is not None:
        source = place / "kernels" / file
        original = source.read_text(encoding="utf-8")
        if text not in original:
            return f"the text to change is not in {file} any more"
        source.write_text(original.replace(text, replacement, 1), encoding="utf-8")
    command = [compiler, "-std=c++20", "-O0", "-w", f"-I{place}/kernels", f"-I{place}/kernels/include", f"-I{ROOT}/tests",
               ROOT / f"tests/kernels/dense/faults/{kernel}.cpp", *layer, "-o", place / "program"]
    try:
        compiled = subprocess.run(command, capture_output=True, text=True, check=False)
        if compiled.returncode != 0:
            return "does not compile: " + compiled.stderr[:500]
        done = subprocess.run([place / "program"], capture_output=True, text=True, timeout=SECONDS, check=False)
        return done.stdout.splitlines()[0] if done.stdout else f"signal: {-done.returncode}"
    except subprocess.TimeoutExpired:
        return f"time: over {SECONDS} s"
    finally:
        shutil.rmtree(place)


def main():
    compiler, kernels = sys.argv[1], sys.argv[2:] or list(FAULTS)
    faults = [(kernel, fault) for kernel, _, text in (one.partition(":") for one in kernels)
              for fault in [AS_IT_STANDS, *FAULTS[kernel]] if text in fault[0]]
    failed = 0
    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor(2) as pool:
        scratch = pathlib.Path(folder)
        layer = compile_layer(compiler, scratch)
        tries = [pool.submit(verdict, compiler, layer, scratch / f"fault{i}", *one) for i, one in enumerate(faults)]
        for (kernel, (name, *_, expected)), tried in zip(faults, tries):
            found = tried.result()
            good = found.split(":")[0] in expected
            failed += not good
            print(f"{'found' if good else 'FAILED, expected ' + ' or '.join(expected)}: {kernel}: {name}: {found[:200]}", flush=True)
    print(f"{len(faults) - failed} of {len(faults)} as expected")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
