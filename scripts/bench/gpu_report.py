"""What scripts/gpu_check found: gathered from the logs of its parts after each of them, written to its output folder, and told as a table."""

import datetime
import io
import json
import os
import sys
import tarfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from compare import memory_of  # noqa: E402
from gpu_goals import STEPS, rows_of  # noqa: E402


def flops_per_token(shape):
    """Multiply-adds of a training step, counted as 2 FLOPs, forward once and backward twice: 6 for each weight of a matrix product (the
    head included, the embedding lookup not) and, for the half of the attention matrix that is not masked, 6 x sequence x width a layer."""
    d, heads, kv_heads = shape["width"], shape["heads"], shape["kv-heads"]
    head_dim = d // heads
    attention = d * (heads + 2 * kv_heads) * head_dim + heads * head_dim * d
    matrices = shape["layers"] * (attention + 3 * d * shape["inner"]) + d * shape["vocab"]
    return 6 * matrices + 6 * shape["layers"] * shape["sequence"] * heads * head_dim


def step_of(path):
    """The programs' speed with MFU, or None where the benchmark left nothing."""
    try:
        result = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    comparison = result["comparisons"][-1]
    peak = next((report["peak_flops"] for report in comparison["programs"] if report.get("peak_flops")), None)
    rows = []
    for report in comparison["programs"]:
        achieved = report["tokens_per_second"] * flops_per_token(result["shape"])
        rows.append({"program": report["program"], "tokens_per_second": report["tokens_per_second"],
                     "median_seconds": report["median_seconds"], "flops_per_second": achieved, "mfu": achieved / peak if peak else None,
                     "peak_bytes": memory_of(report), "parameters": report["parameters"],
                     "last_loss": report["last_loss"], "gpu_idle": report.get("gpu_idle"), "ours_over_this": report.get("ours_over_this")})
    return {"shape": result["shape"], "rounds": result["rounds"], "peak_flops": peak, "flops_per_token": flops_per_token(result["shape"]),
            "programs": rows}


def lines_of(path):
    """The JSON lines of a benchmark; one that was cut off is left out."""
    lines = []
    try:
        text = path.read_text()
    except OSError:
        return lines
    for line in text.splitlines():
        try:
            found = json.loads(line)
        except ValueError:
            continue
        lines += [found] if isinstance(found, dict) else []
    return lines


class Results:
    """What the parts of a run found so far, and the three files that tell it: all numbers, the printed report, and an archive of every log. They
    are replaced after each part, and while a long one runs, so that a check which is cut off has lost nothing but what was under way."""

    FILES = ("gpu_check.json", "gpu_check.txt", "gpu_check.tar.gz")
    MOST_LOG = 400_000  # bytes of one log in the archive: its end says what went wrong

    def __init__(self, out, work, gpu, commit, rehearsal=False, full=False):
        self.out, self.work, self.full, self.unwritten, self.begin = out, work, full, "", time.monotonic()
        self.facts = {"gpu": gpu, "date": datetime.date.today().isoformat(), "commit": commit, "rehearsal": rehearsal}
        self.sections = []

    def seconds(self):
        return time.monotonic() - self.begin

    def note(self, part, state, seconds, note):
        self.sections.append({"name": part.name, "state": state, "seconds": seconds, "note": note, "counts": part.counts})

    def gather(self):
        lines = [line for log in sorted(self.work.glob("operators.*.log")) for line in lines_of(log)]
        return {**self.facts, "seconds": round(self.seconds(), 1), "sections": self.sections, "tests": test_counts(self.sections),
                "operators": [line for line in lines if "subject" in line], "depth_steps": [line for line in lines_of(self.work / "depth_steps.log") if "ratio" in line],
                "steps": {name: step_of(self.work / f"{name}.json") for name in STEPS},
                "recorded": {log.stem: log.read_text(errors="replace")[-20_000:] for log in sorted(self.work.glob("*.log"))
                             if log.stem.startswith(("probes.", "conformance", "bandwidths"))}}

    def keep(self):
        """A folder that takes nothing more ends no check: its last results stay, and the new ones are printed at the end."""
        result = self.gather()
        try:
            self.write("gpu_check.json", json.dumps(result, indent=1).encode())
            self.write("gpu_check.txt", ("\n".join(describe(result)) + "\n").encode())
            self.write("gpu_check.tar.gz", self.archive())
            self.unwritten = ""
        except OSError as error:
            self.unwritten = f"{self.out}: {error.strerror}"

    def write(self, name, content):
        """Whole or not at all."""
        unfinished = Path("/dev/full") if self.full and self.sections else self.out / f".{name}"
        try:
            with open(unfinished, "wb") as file:
                file.write(content)
            os.replace(unfinished, self.out / name)
        finally:
            if unfinished.parent == self.out:
                unfinished.unlink(missing_ok=True)

    def archive(self):
        (self.work / "tests.xml").write_text(junit(self.sections))
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as tar:
            for path in sorted(self.work.iterdir()):
                if path.is_file():
                    content = path.read_bytes()[-self.MOST_LOG:]
                    entry = tarfile.TarInfo(path.name)
                    entry.size, entry.mtime = len(content), int(path.stat().st_mtime)
                    tar.addfile(entry, io.BytesIO(content))
        return packed.getvalue()


def tests_of(sections):
    return [part for part in sections if part["name"].startswith(("tests/", "conformance"))]


def test_counts(sections):
    """{"passed", "failed", "skipped": names}"""
    counts = {"passed": [], "failed": [], "skipped": []}
    for part in tests_of(sections):
        counts[part["state"] if part["state"] in counts else "failed"].append(part["name"].removeprefix("tests/"))
    return counts


def junit(sections):
    suite = ElementTree.Element("testsuite", name="gpu_check")
    for part in tests_of(sections):
        case = ElementTree.SubElement(suite, "testcase", name=part["name"], time=str(part["seconds"]))
        if part["state"] != "passed":
            ElementTree.SubElement(case, "skipped" if part["state"] == "skipped" else "failure", message=f"{part['state']}: {part['note']}")
    return ElementTree.tostring(suite, encoding="unicode")


def table(rows):
    mark = {True: "met", False: "NOT MET", None: ""}
    lines = [(row["what"], row["case"], row["found"], row["goal"], mark[row["met"]], row["note"]) for row in rows]
    widths = [max((len(line[column]) for line in lines), default=0) for column in range(6)]
    return [" ".join(f"{cell:{width}}" for cell, width in zip(line, widths)).rstrip() for line in lines]


def describe(result):
    lines = [f"{result['gpu']}, {result['seconds']:.0f} s in all, commit {result['commit'][:12]}{', a rehearsal' if result['rehearsal'] else ''}"]
    lines += [f"  {part['name']:34} {part['state']:12} {part['seconds']:>6} s  {part['note']}".rstrip() for part in result["sections"]]
    lines += table(rows_of(result)) or ["operators and steps: no result"]
    counts = result["tests"]
    lines.append(f"tests: {len(counts['passed'])} passed, {len(counts['failed'])} failed, {len(counts['skipped'])} skipped or not run")
    return lines + [f"  {kind}: {', '.join(counts[kind])}" for kind in ("failed", "skipped") if counts[kind]]


def is_good(result):
    """Every part that counts passed or was skipped; every GPU test that ran passed, and some did."""
    states = [part["state"] for part in result["sections"] if part["counts"]]
    return bool(states) and all(state in ("passed", "skipped") for state in states)
