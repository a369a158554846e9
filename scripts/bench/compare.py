#!/usr/bin/env python3
"""Meristem's training step against the peer's, alternating: both programs live side by side, each does one step when it is asked to, and
the order within a round changes from round to round. So a machine that slows down slows both, and the ratio holds.

--architectures also measures a loop, depth attention and a Dreamer-style model, each against a decoder of ours with as many calls;
--matrix does all that for every size with vocabularies of 4096 and 49152 and for 256 and 2048 tokens.

Prints a table, and with --json FILE writes all numbers ("-": to standard output instead of the table). Exit code 0, or with --require R:
1 where a median ratio is below R or our peak memory above the peer's.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import architectures  # noqa: E402
from peer import SHAPE  # noqa: E402


# What --size stands for; each number can be replaced by its own option.
SIZES = {
    "1M": SHAPE | {"layers": 4, "width": 128, "inner": 344, "vocab": 2048, "batch": 8},
    "6M": SHAPE,
    "30M": SHAPE | {"layers": 8, "width": 512, "inner": 1408, "heads": 8, "kv-heads": 8, "vocab": 8192, "sequence": 512, "batch": 4},
}


class Program:
    """A child process that does one training step for each line it gets."""

    def __init__(self, name, command, environment):
        self.name = name
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        ready = self.answer()
        self.parameters, self.peak_flops, self.ready_bytes = ready["parameters"], ready.get("peak_flops"), self.memory("VmHWM")
        self.seconds, self.loss, self.gpu_idle, self.profile = [], None, None, None
        self.alone, self.final = [], {}  # seconds before there was a peer; what it said of memory

    def answer(self):
        """The next JSON line; what else a program says is passed on."""
        for line in self.child.stdout:
            if line.startswith("{"):
                return json.loads(line)
            sys.stderr.write(f"{self.name}: {line}")
        code = self.child.wait()
        self.child.stdout.close()
        raise SystemExit(f"bench: {self.name} ended early with exit code {code}")

    def ask(self, request):
        try:
            self.child.stdin.write(request + "\n")
            self.child.stdin.flush()
        except BrokenPipeError:
            pass  # its last words are still to be read
        return self.answer()

    def step(self, timed):
        answer = self.ask("step")
        self.loss = answer["loss"]
        if timed:
            self.seconds.append(answer["seconds"])

    def memory(self, field):
        try:
            status = Path(f"/proc/{self.child.pid}/status").read_text()
        except OSError:
            return None
        return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(f"{field}:")), None)

    def measure_idle(self, updates):
        answer = self.ask(f"idle {updates}")
        self.gpu_idle = answer.get("gpu_idle")
        if self.gpu_idle is None:
            sys.stderr.write(f"{self.name}: idle: {answer.get('failed')}\n")

    def measure_profile(self, updates):
        self.profile = self.ask(f"profile {updates}")

    def quit(self):
        self.final = self.ask("quit")
        self.child.stdin.close()
        self.child.wait()

    def times(self):
        return self.seconds or self.alone

    def kill(self):
        if self.child.poll() is None:
            self.child.kill()
            self.child.wait()

    def report(self, tokens):
        median = statistics.median(self.times())
        return {"program": self.name, "parameters": self.parameters, "median_seconds": median, "tokens_per_second": tokens / median,
                "seconds": self.times(), "last_loss": self.loss, "peak_bytes": self.memory("VmHWM"),
                "ready_bytes": self.ready_bytes, "peak_flops": self.peak_flops, "gpu_idle": self.gpu_idle, "profile": self.profile, **self.final}


def alternate(programs, warmup, rounds, each=lambda: None):
    """One step each a round; who begins moves on by one each round. `each`: after a timed round."""
    for number in range(-warmup, rounds):
        first = number % len(programs)
        for program in programs[first:] + programs[:first]:
            program.step(timed=number >= 0)
        if number >= 0:
            each()


def ratio_to(ours, peer):
    """How many times faster than the peer: the median over rounds of its time over ours, and the middle half of the rounds."""
    ratios = sorted(theirs / mine for mine, theirs in zip(ours.times(), peer.times()))
    return {"median": statistics.median(ratios), "quartiles": [ratios[len(ratios) // 4], ratios[(3 * len(ratios)) // 4]]}


# What else --ours may be, as options of the program.
OURS = {"eager": ["--graph", "off"], "graph": ["--graph", "on"], "sequences": ["--thread-work", "sequences"], "operators": ["--thread-work", "operators"]}


def start_ours(arguments, common, environment):
    for mode in arguments.ours:
        name, extra = ("meristem", []) if mode == "auto" else (f"meristem {mode}", OURS[mode])
        yield Program(name, [arguments.binary, "step", *common, "--kernels", arguments.kernels, *extra], environment)


def start_peers(arguments, common, environment):
    for mode in arguments.modes:
        command = [sys.executable, str(HERE / "peer.py"), "--serve", *common, "--mode", mode]
        # The peer waits as its own library does, not as scripts/meristem has ours wait.
        alone = {name: value for name, value in environment.items() if name != "GOMP_SPINCOUNT"}
        yield Program(f"transformers {mode}", command, alone)


def measure_ours_first(arguments, programs, keep):
    """Ours have their numbers, the idle share among them, before a peer is even started: no trouble of its is ours."""
    alternate(programs, arguments.warmup, max(2, arguments.rounds // 3))
    keep(programs)
    for program in programs if arguments.idle else ():
        program.measure_idle(arguments.idle)
    for program in programs:
        program.alone, program.final = program.seconds, program.ask("memory")
    keep(programs)
    for program in programs:
        program.seconds = []


def compare(arguments, precision, keep=lambda programs: None):
    shape = [word for name in SHAPE for word in (f"--{name}", str(getattr(arguments, name.replace("-", "_"))))]
    common = [*shape, "--precision", precision, "--device", arguments.device]
    environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads)}
    programs = []
    try:
        programs += start_ours(arguments, common, environment)
        if arguments.ours_first:
            measure_ours_first(arguments, programs, keep)
        for peer in start_peers(arguments, common, environment):
            programs.append(peer)
        alternate(programs, arguments.warmup, arguments.rounds, each=lambda: keep(programs) if arguments.ours_first else None)
        if arguments.idle and not arguments.ours_first:
            for program in programs[:len(arguments.ours)]:
                program.measure_idle(arguments.idle)
        if arguments.profile:
            programs[0].measure_profile(arguments.profile)
        for program in programs:
            program.quit()
    finally:
        for program in programs:
            program.kill()
    return comparison_of(arguments, precision, programs)


def comparison_of(arguments, precision, programs):
    """Of those programs that have times; the first is ours."""
    measured = [program for program in programs if program.times()]
    reports = [program.report(arguments.batch * arguments.sequence) for program in measured]
    for report, program in zip(reports[1:], measured[1:]):
        report["ours_over_this"] = ratio_to(measured[0], program)
    return {"precision": precision, "programs": reports}


def memory_of(report):
    """On a GPU its memory, else the process's."""
    return report.get("device_peak_bytes") or report["peak_bytes"]


def gibibytes(count):
    return f"{count / 2**30:.2f} GiB" if count else "?"


def table(result):
    lines = [f"{'precision':9}  {'program':21}  {'tokens/s':>9}  {'step':>9}  {'peak memory':>11}  Meristem is faster by"]
    for comparison in result["comparisons"]:
        for report in comparison["programs"]:
            ratio = report.get("ours_over_this")
            faster = f"{ratio['median']:.2f}x ({ratio['quartiles'][0]:.2f}-{ratio['quartiles'][1]:.2f})" if ratio else ""
            lines.append(f"{comparison['precision']:9}  {report['program']:21}  {report['tokens_per_second']:9.0f}  "
                         f"{1000 * report['median_seconds']:6.1f} ms  {gibibytes(memory_of(report)):>11}  {faster}".rstrip())
    return "\n".join(lines)


def profile_table(report, precision):
    """Where an update's time goes: the dozen most expensive operators, and what the products would take at the rate measured beside them."""
    rows = sorted(report["profile"]["operators"], key=lambda row: -row[1])
    total, rate = sum(row[1] for row in rows), report["profile"]["product_flops"]
    lines = [f"{report['program']}, {precision}: {total:.1f} ms an update in operators; products of 1024 x 1024 run at {rate / 1e9:.0f} GFLOP/s here",
             f"{'operator':48}  {'ms':>8}  {'share':>6}  {'calls':>6}"]
    for name, milliseconds, calls in rows[:12]:
        lines.append(f"{name[-48:]:48}  {milliseconds:8.2f}  {milliseconds / total:6.1%}  {calls:6.0f}")
    rest = sum(row[1] for row in rows[12:])
    return "\n".join([*lines, f"{'the others':48}  {rest:8.2f}  {rest / total:6.1%}"])


def processor():
    """Name and instruction sets: ratios differ between machines."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return {"name": platform.processor(), "flags": []}
    fields = dict(line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    flags = fields.get("flags", "").split()
    return {"name": fields.get("model name", "?"), "flags": [flag for flag in flags if flag.startswith(("avx", "amx", "fma"))]}


def falls_short(result, least):
    """One line for each comparison that is slower than `least`, or needs more memory than the peer."""
    short = []
    for comparison in result["comparisons"]:
        ours = comparison["programs"][0]
        for peer in comparison["programs"][1:]:
            where = f"{comparison['precision']} against {peer['program']}"
            if peer["ours_over_this"]["median"] < least:
                short.append(f"{where}: {peer['ours_over_this']['median']:.3f}x, at least {least:g}x wanted")
            if memory_of(ours) > memory_of(peer):
                short.append(f"{where}: peak {gibibytes(memory_of(ours))}, the peer's is {gibibytes(memory_of(peer))}")
    return short


def write_whole(path, result):
    """The file is the old one or the new one, whenever somebody ends this process. Nowhere where the result goes to the standard output."""
    if path and path != "-":
        unfinished = Path(f"{path}.unfinished")
        unfinished.write_text(json.dumps(result, indent=1) + "\n")
        os.replace(unfinished, path)


def parse_arguments():
    parser = argparse.ArgumentParser(prog="scripts/bench/cpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="6M", help="of the model and its batch: " + "; ".join(
        f"{name} is {shape['layers']} x {shape['width']}, vocabulary {shape['vocab']}, {shape['batch']} x {shape['sequence']} tokens" for name, shape in SIZES.items()))
    for name in SHAPE:
        parser.add_argument(f"--{name}", type=int, help="instead of the size's")
    parser.add_argument("--precisions", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"])
    parser.add_argument("--modes", nargs="*", choices=("eager", "compile"), default=["eager"], help="the peer's modes")
    parser.add_argument("--ours", nargs="+", choices=["auto", *OURS], default=["auto"],
                        help="ours, the first to compare the others with: graph and eager are kernels.graph: on and off, sequences and operators parallel.threads")
    parser.add_argument("--kernels", default="auto", help="ours: reference, library, fused or auto, for every operator")
    parser.add_argument("--idle", type=int, default=0, metavar="N", help="then N more updates of ours, for the share of time in which the GPU is idle")
    parser.add_argument("--profile", type=int, default=0, metavar="N", help="then N more updates of ours, for where their time goes by operator")
    parser.add_argument("--architectures", action="store_true", help="then a loop, depth attention and a Dreamer-style model of ours beside a decoder")
    parser.add_argument("--matrix", action="store_true", help="everything, for all sizes (or --sizes), vocabularies and lengths")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES), help="of the matrix")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--warmup", type=int, default=3, help="rounds before the timed ones")
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds")
    parser.add_argument("--require", type=float, metavar="R", help="fail where we are not R times as fast, or need more memory")
    parser.add_argument("--ours-first", action="store_true", help="measure ours before a peer is started, and write --json after each round")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--binary", default=os.environ.get("MERISTEM_BENCH"), help="the meristem-bench program (default: MERISTEM_BENCH)")
    arguments = parser.parse_args()
    if not arguments.binary or not os.access(arguments.binary, os.X_OK):
        parser.error(f"no meristem-bench program at {arguments.binary}; start this as scripts/bench/cpu, or name one with --binary")
    return arguments


def shapes_of(arguments):
    """The one that was asked for; or those of the matrix, each with its size's number of tokens."""
    asked = {name: getattr(arguments, name.replace("-", "_")) for name in SHAPE}
    given = {name: value for name, value in asked.items() if value is not None}
    if not arguments.matrix:
        return [SIZES[arguments.size] | given]
    shapes = [shape | {"vocab": vocab, "sequence": sequence, "batch": max(1, shape["batch"] * shape["sequence"] // sequence)} | given
              for shape in map(SIZES.get, arguments.sizes) for vocab in (4096, 49152) for sequence in (256, 2048)]
    return [shape for i, shape in enumerate(shapes) if shape not in shapes[:i]]


def measure(arguments, shape):
    """Everything that is asked of one shape."""
    for name, value in shape.items():
        setattr(arguments, name.replace("-", "_"), value)
    result = {"shape": shape, "processor": processor(), "threads": arguments.threads, "rounds": arguments.rounds, "device": arguments.device,
              "comparisons": []}
    for precision in arguments.precisions:
        done = list(result["comparisons"])
        result["comparisons"].append(compare(arguments, precision, lambda programs, name=precision, before=done: write_whole(
            arguments.json, {**result, "comparisons": [*before, comparison_of(arguments, name, programs)]})))
    if arguments.architectures or arguments.matrix:
        result["architectures"] = [{"precision": precision, **row} for precision in arguments.precisions
                                   for row in architectures.measure(arguments.binary, shape, precision, arguments.rounds, arguments.threads)]
    return result


def show(arguments, result):
    if arguments.matrix:
        print("\n" + ", ".join(f"{name} {value}" for name, value in result["shape"].items()))
    print(table(result))
    for comparison in result["comparisons"] if arguments.profile else ():
        print("\n" + profile_table(comparison["programs"][0], comparison["precision"]))
    if "architectures" in result:
        print(architectures.table(result["architectures"]), flush=True)


def main():
    arguments = parse_arguments()
    results = []
    for shape in shapes_of(arguments):
        results.append(measure(arguments, shape))
        if arguments.json != "-":
            show(arguments, results[-1])
    answer = results if arguments.matrix else results[0]
    if arguments.json == "-":
        print(json.dumps(answer, indent=1))
    write_whole(arguments.json, answer)
    short = [line for result in results for line in falls_short(result, arguments.require)] if arguments.require is not None else []
    for line in short:
        print(f"falls short: {line}", file=sys.stderr)
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
