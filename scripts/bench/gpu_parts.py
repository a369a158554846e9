"""The parts of scripts/gpu_check in the order of their worth: what each runs, and for how many seconds at most. A part is a process of its own,
so that one which fails, hangs or leaves the device in an error loses no other's result."""

import sys
from dataclasses import dataclass, field
from pathlib import Path

BENCH = Path(__file__).resolve().parent
GOLDEN = BENCH.parents[1] / "tests" / "kernels" / "layer" / "golden.txt"

# Name of a test: its program, its tag in there, seconds. A kernel's proof (gpu_publish.py) names the tests that it needs.
TESTS = {
    "attention_causal_64": ("test_kernels_on_gpu", "[causal][d64]", 20),
    "attention_causal_128": ("test_kernels_on_gpu", "[causal][d128]", 20),
    "attention_window_64": ("test_kernels_on_gpu", "[window][d64]", 20),
    "attention_window_128": ("test_kernels_on_gpu", "[window][d128]", 20),
    "attention_packed_64": ("test_kernels_on_gpu", "[packed][d64]", 20),
    "attention_packed_128": ("test_kernels_on_gpu", "[packed][d128]", 20),
    "attention_far": ("test_kernels_on_gpu", "[far]", 20),
    "rms_norm": ("test_kernels_on_gpu", "[rms_norm]", 15),
    "cross_entropy": ("test_kernels_on_gpu", "[cross_entropy]", 15),
    "adamw": ("test_kernels_on_gpu", "[adamw]", 15),
    "rope": ("test_kernels_on_gpu", "[rope]", 15),
    "swiglu": ("test_kernels_on_gpu", "[swiglu]", 15),
    "depth_attention": ("test_kernels_on_gpu", "[depth_attention]", 20),
    "experts": ("test_kernels_on_gpu", "[experts]~[small]", 20),
    "operators": ("test_ops_on_gpu", "", 30),
    "graph": ("test_graph_on_gpu", "", 30),
}
# Only what a program says counts, not how fast it is: gpu_goals.py judges speeds.
BANDWIDTHS = ("test_kernels_on_gpu", "[speed]", 20)

SUBJECTS = ("attention", "attention_window", "attention_packed", "attention_joint", "depth_attention", "cross_entropy", "rms_norm", "adamw", "rope",
            "swiglu", "experts")
DENSE = ("cross_entropy", "rms_norm", "adamw", "rope", "swiglu")
PROBES = ("mbarrier", "bulk_copy", "tensor_copy", "wgmma_none", "wgmma_32", "wgmma_64", "wgmma_128", "wgmma_both")
PROGRAMS = tuple(sorted({program for program, _, _ in TESTS.values()} | {"conformance_on_gpu", "probe_on_gpu", "meristem-bench"}))


def shape(layers, width, inner, heads, kv_heads, vocab, sequence, batch):
    names = ("layers", "width", "inner", "heads", "kv-heads", "vocab", "sequence", "batch")
    return dict(zip(names, (layers, width, inner, heads, kv_heads, vocab, sequence, batch)))


# Step: shape, ours (the first is compared with the others), peers, warm-up and timed rounds, seconds. Graph against plain at a size where
# launches are the cost; whole steps against the compiled peer where arithmetic is.
STEPS = {
    "step_124M": (shape(12, 768, 2048, 12, 12, 50304, 1024, 16), ("graph", "eager"), ("compile",), 6, 40, 70),
    "step_30M": (shape(6, 384, 1024, 6, 6, 32000, 1024, 8), ("graph", "eager"), (), 10, 60, 25),
    "step_360M": (shape(32, 960, 2560, 15, 5, 49152, 2048, 4), ("graph",), ("compile",), 4, 20, 60),
    "step_1.7B": (shape(24, 2048, 8192, 32, 32, 49152, 2048, 2), ("graph",), ("compile",), 4, 15, 70),
}
TINY = shape(2, 64, 128, 2, 2, 256, 32, 2)

# What compute-sanitizer watches: the tool, then a name. "conformance", or subjects of the operators, or the small case of experts.
WATCHED = (("memcheck", "conformance"), ("racecheck", "conformance"), ("memcheck", "attention"), ("racecheck", "attention"), ("memcheck", "dense"),
           ("memcheck", "depth_attention"), ("memcheck", "experts"), ("racecheck", "depth_attention"), ("racecheck", "experts"), ("racecheck", "dense"),
           ("initcheck", "conformance"))
OF_SANITIZER = {"attention": [subject for subject in SUBJECTS if subject.startswith("attention")], "dense": list(DENSE),
                "depth_attention": ["depth_attention"]}


# Seconds of all parts of a group together: what is worth less has its turn, too, when each of them takes as long as it may.
GROUPS = {"tests": 100, "operators": 80, "sanitizer": 80, "probes": 15}


@dataclass
class Part:
    name: str
    seconds: float
    command: list
    environment: dict = field(default_factory=dict)
    counts: bool = True  # False: what it answers is only recorded

    def group(self):
        return self.name.partition("/")[0]

    def stem(self):
        return self.name.replace("/", ".")


class OnGpu:
    """The commands on a machine with a GPU. programs: name -> path."""

    def __init__(self, programs, work, sanitizer):
        self.programs, self.work, self.sanitizer = programs, work, sanitizer

    def program(self, name, *arguments):
        return [str(self.programs(name)), *arguments]

    def conformance(self):
        return self.program("conformance_on_gpu", str(GOLDEN))

    def test(self, program, tag):
        return self.program(program, "--durations", "yes", *([tag] if tag else []))

    def probe(self, name):
        return self.program("probe_on_gpu", name)

    def operators(self, subjects, *more):
        return self.program("meristem-bench", "operators", *more, *subjects)

    def measured(self, subject):
        return self.operators([subject], "--seconds-each", "0.3")

    def small(self, what):
        """What compute-sanitizer is to watch: much slower under it, so each kernel once and at small sizes."""
        if what == "conformance":
            return self.conformance()
        if what == "experts":
            return self.test("test_kernels_on_gpu", "[small]")
        return self.operators(OF_SANITIZER[what], "--tiny", "--once")

    def watched(self, tool, what):
        return [self.sanitizer, "--tool", tool, "--error-exitcode", "9", "--launch-timeout", "60", *self.small(what)]

    def step(self, name):
        size, ours, peers, warmup, rounds, _ = STEPS[name]
        return self.compare(name, size, ours, peers, warmup, rounds, ["--device", "cuda", "--kernels", "fused", "--idle", "10"])

    def compare(self, name, size, ours, peers, warmup, rounds, more):
        options = [word for key, value in size.items() for word in (f"--{key}", str(value))]
        return [sys.executable, str(BENCH / "compare.py"), "--binary", str(self.programs("meristem-bench")), "--precisions", "bf16", *more, *options,
                "--ours", *ours, "--modes", *peers, "--warmup", str(warmup), "--rounds", str(rounds), "--ours-first", "--json",
                str(self.work / f"{name}.json")]

    def depth(self):
        return [sys.executable, str(BENCH / "depth_costs.py"), "--gpu", "--rounds", "15"]


class Rehearsed(OnGpu):
    """The same on a machine without one: tiny sizes on the CPU, and a line of text in the place of a program that is for a GPU alone."""

    def stand_in(self, *words):
        return [sys.executable, "-c", f"print('a stand-in for', {' '.join(map(str, words))!r})"]

    def conformance(self):
        return self.stand_in("conformance_on_gpu")

    def test(self, program, tag):
        return self.stand_in(program, tag)

    def probe(self, name):
        return self.stand_in("probe_on_gpu", name)

    def operators(self, subjects, *more):
        return super().operators(subjects, "--device", "cpu", *(["--tiny"] if "--tiny" not in more else []), *more)

    def watched(self, tool, what):
        return self.small(what)

    def step(self, name):
        _, _, peers, _, _, _ = STEPS[name]
        return self.compare(name, TINY, ("eager",), ("eager",) if peers else (), 1, 2, ["--device", "cpu"])

    def depth(self):
        return [sys.executable, str(BENCH / "depth_costs.py"), "--gpu", "--tiny", "--rounds", "1"]


def parts(on, has_sanitizer, base):
    """All parts. base: environment of every program."""
    listed = [Part("conformance", 15, on.conformance())]
    listed += [Part(f"tests/{name}", seconds, on.test(program, tag)) for name, (program, tag, seconds) in TESTS.items()]
    listed += [Part(f"operators/{subject}", 25, on.measured(subject)) for subject in SUBJECTS]
    listed.append(Part("bandwidths", BANDWIDTHS[2], on.test(*BANDWIDTHS[:2]), counts=False))
    step = {name: Part(name, STEPS[name][-1], on.step(name)) for name in STEPS}
    listed += [step["step_124M"], step["step_30M"]]
    # LibTorch's allocator hands out pieces of large blocks, in which an access out of bounds hits a neighbour: off.
    watched = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    for tool, what in WATCHED:
        command = on.watched(tool, what) if has_sanitizer else ["sh", "-c", "echo skipped: compute-sanitizer is not on this machine; exit 4"]
        listed.append(Part(f"sanitizer/{tool}_{what}", 25, command, watched))
    listed += [Part(f"probes/{name}", 5, on.probe(name), counts=False) for name in PROBES]
    listed.append(Part("depth_steps", 40, on.depth(), {"MERISTEM_BENCH": str(on.programs("meristem-bench"))}))
    listed += [step["step_360M"], step["step_1.7B"]]
    for part in listed:
        part.environment = {**base, **part.environment}
    return listed
