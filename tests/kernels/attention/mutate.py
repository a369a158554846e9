#!/usr/bin/env python3
"""Changes the attention kernels' source and sees whether the CPU layer's tests notice.

    mutate.py --planted COMPILER        the faults listed below; every one must be found, and as what it is
    mutate.py --random N COMPILER       N changes drawn from all that the rules below allow; prints the share found and every survivor
              --minutes M               as many of them as fit

Each change is made in a copy of kernels/, compiled with mutant.cpp, and run. A change that does not compile is drawn again.
"""
import argparse
import concurrent.futures
import pathlib
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[3]
HOST = "kernels/device/host"

# name, file, text, replacement, what the tests must call it
PLANTED = [
    ("removed barrier", "forward.h", "device::barrier();", ";", ("race", "in flight")),
    ("removed wait", "forward.h", "device::cp_async_wait<0>();", ";", ("in flight",)),
    ("removed commit", "forward.h", "    device::cp_async_commit();\n    const SharedAddress", "    const SharedAddress", ("in flight",)),
    ("wait for one group too few", "forward.h", "cp_async_wait<0>", "cp_async_wait<1>", ("in flight",)),
    ("wrong stage", "forward.h", "copy_keys_values(key + kKeys, stage ^ 1)", "copy_keys_values(key + kKeys, stage)", ("race", "in flight")),
    ("removed warp_sync", "forward.h", "device::warp_sync();", ";", ("race",)),
    ("wrong lane", "online_softmax.h", "lanes <= 2; lanes *= 2) {", "lanes <= 2; lanes *= 4) {", ("wrong",)),
    ("swapped lanes", "tile.h", "lane / 16 * 8 + lane % 8, lane / 8 % 2, step", "lane / 8 % 2 * 8 + lane % 8, lane / 16, step", ("wrong",)),
    ("one tile too few", "forward.h", "key < key_end; key += kKeys", "key + kKeys < key_end; key += kKeys", ("wrong", "in flight")),
    ("mask off by one", "mask.h", "column > last) scores[n][2 * half + i]", "column >= last) scores[n][2 * half + i]", ("wrong",)),
    ("rows beyond the document are written", "tile.h", "if (r < valid) device::stg", "device::stg", ("bounds", "wrong")),
    ("rows beyond the document are read", "tile.h", "chunk * 8), row < valid)", "chunk * 8), true)", ("bounds",)),
    ("unswizzled layout", "tile.h", "((chunk ^ (row & 7)) * 16)", "(chunk * 16)", ("bank conflicts",)),
    ("wrong stride", "tile.h", "from + (row * row_stride + chunk * 8)", "from + (row * row_stride * 2 + chunk * 8)", ("bounds", "wrong")),
]

# Token by token: (pattern, replacements). Comments, declarations and launch bounds are left alone.
RULES = [
    (r"(?<=[\w)\]]) \+ (?=[\w(])", [" - "]),
    (r"(?<=[\w)\]]) - (?=[\w(])", [" + "]),
    (r"(?<=[\w)\]]) \* (?=[\w(])", [" + "]),
    (r"(?<=[\w)\]]) / (?=[\w(])", [" * "]),
    (r"(?<=[\w)\]]) % (?=[\w(])", [" / "]),
    (r"(?<=[\w)\]]) \^ (?=[\w(])", [" + "]),
    (r" \+= ", [" -= ", " = "]),
    (r" <= ", [" < "]),
    (r" >= ", [" > "]),
    (r"(?<=[\w)\]]) < (?=[\w(])", [" <= "]),
    (r"(?<=[\w)\]]) > (?=[\w(-])", [" >= "]),
    (r" && ", [" || "]),
    (r" \|\| ", [" && "]),
    (r" == ", [" != "]),
    (r"(?<![\w.<])([1-9]\d*)(?![\w.>])", ["{+1}", "{-1}"]),
    (r"(?<=[\[({ ,])0(?=[\]),; ])", ["1"]),
    (r"^\s*device::(?:barrier|warp_sync|cp_async_commit|cp_async_wait<0>)\(\);", [";"]),
    (r"^\s*(?:finish|start|clear<[^;]*>|copy_tile<[^;]*>|copy_keys_values|copy_queries<D>|accumulate_columns<[^;]*>)\([^;]*\);", [";"]),
    (r"load_left<D>", ["load_right_of_rows<D>"]),
    (r"\bfirst\b(?=\(|,| =|;)", ["last"]),
]


def mutants(sources):
    """Every (file, begin, end, replacement) that the rules allow."""
    found = []
    for path in sources:
        text = path.read_text(encoding="utf-8")
        offset = 0
        for line in text.splitlines(keepends=True):
            code = line.split("//")[0]
            if not code.lstrip().startswith(("#", "static_assert", "using", "template", "namespace", "MERISTEM_KERNEL")):
                for pattern, replacements in RULES:
                    for match in re.finditer(pattern, code):
                        for replacement in replacements:
                            if replacement in ("{+1}", "{-1}"):
                                replacement = str(int(match[0]) + (1 if replacement == "{+1}" else -1))
                            found.append((path.name, offset + match.start(), offset + match.end(), replacement))
            offset += len(line)
    return found


class Workshop:
    def __init__(self, compiler, scratch, seconds):
        self.compiler, self.scratch, self.seconds = compiler, scratch, seconds
        self.layer = []
        for source in sorted((ROOT / HOST).glob("*.cpp")):
            built = scratch / (source.stem + ".o")
            subprocess.run([compiler, "-std=c++20", "-O2", f"-I{ROOT}/kernels", "-c", source, "-o", built], check=True)
            self.layer.append(built)

    def verdict(self, name, file, change, forward_only):
        """The first line of what the mutant printed; None where it does not compile. change: text -> text."""
        place = self.scratch / name
        shutil.copytree(ROOT / "kernels", place / "kernels")
        source = place / "kernels/attention" / file
        source.write_text(change(source.read_text(encoding="utf-8")), encoding="utf-8")
        command = [self.compiler, "-std=c++20", "-O1", "-w", f"-I{place}/kernels", f"-I{place}/kernels/include", f"-I{ROOT}/tests",
                   *(["-DMERISTEM_FORWARD_ONLY"] if forward_only else []),
                   ROOT / "tests/kernels/attention/mutant.cpp", *self.layer, "-o", place / "mutant"]
        try:
            if subprocess.run(command, capture_output=True, check=False).returncode != 0:
                return None
            done = subprocess.run([place / "mutant"], capture_output=True, text=True, timeout=self.seconds, check=False)
            return done.stdout.splitlines()[0] if done.stdout else f"signal: {-done.returncode}"
        except subprocess.TimeoutExpired:
            return f"time: over {self.seconds} s"
        finally:
            shutil.rmtree(place)


def planted(shop, pool):
    def try_one(item):
        index, (_, file, text, replacement, _) = item
        original = (ROOT / "kernels/attention" / file).read_text(encoding="utf-8")
        if original.count(text) < 1:
            return "the text to change is not in the source any more"
        return shop.verdict(f"planted{index}", file, lambda source: source.replace(text, replacement, 1), True) or "does not compile"

    failed = False
    for (name, *_, expected), verdict in zip(PLANTED, pool.map(try_one, enumerate(PLANTED))):
        good = verdict.split(":")[0] in expected
        failed |= not good
        print(f"{'found' if good else 'FAILED, expected ' + ' or '.join(expected)}: {name}: {verdict[:160]}", flush=True)
    return failed


def drawn(shop, pool, count, least, minutes):
    sources = sorted((ROOT / "kernels/attention").glob("*.h"))
    sources = [path for path in sources if path.name not in ("launches.h", "parameters.h")]
    everything = mutants(sources)
    random.Random(5).shuffle(everything)
    print(f"{len(everything)} changes are possible", flush=True)

    def try_one(item):
        index, (file, begin, end, replacement) = item
        return shop.verdict(f"drawn{index}", file, lambda source: source[:begin] + replacement + source[end:], False)

    results, survivors, waiting = {}, [], iter(enumerate(everything))
    running = {}
    deadline = time.monotonic() + 60 * minutes
    while len(results) < count and time.monotonic() < deadline:
        while len(running) < 2 * pool._max_workers and (item := next(waiting, None)):  # pylint: disable=protected-access
            running[pool.submit(try_one, item)] = item
        if not running:
            break
        for future in concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED).done:
            index, (file, begin, end, replacement) = running.pop(future)
            verdict = future.result()
            if verdict is None or len(results) == count:
                continue
            results[index] = verdict.split(":")[0]
            if verdict == "sound":
                text = (ROOT / "kernels/attention" / file).read_text(encoding="utf-8")
                number = text.count("\n", 0, begin) + 1
                line = text.splitlines()[number - 1].strip()
                survivors.append(f"{file}:{number}: '{text[begin:end].strip()}' -> '{replacement.strip()}' in: {line}")
                print("survived:", survivors[-1], flush=True)
    for future in running:
        future.cancel()
    kinds = {kind: list(results.values()).count(kind) for kind in sorted(set(results.values()))}
    share = 1 - len(survivors) / max(1, len(results))
    print(f"{len(results)} mutants, {len(results) - len(survivors)} found ({100 * share:.1f} %): {kinds}")
    return share < least


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--planted", action="store_true")
    parser.add_argument("--random", type=int, metavar="N")
    parser.add_argument("--least", type=float, default=0.95, help="the share that must be found")
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=120, help="for one mutant's run")
    parser.add_argument("compiler")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, concurrent.futures.ThreadPoolExecutor(given.jobs) as pool:
        shop = Workshop(given.compiler, pathlib.Path(scratch), given.seconds)
        return planted(shop, pool) if given.planted else drawn(shop, pool, given.random, given.least, given.minutes)


if __name__ == "__main__":
    sys.exit(main())
