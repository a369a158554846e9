"""A run small enough to be trained in a second: shards, config, and what its folder says afterwards."""

import json
import os
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from program import environment, run, start  # noqa: E402, F401
from text_commands import write_shard  # noqa: E402
from text.shards import xxh3_file  # noqa: E402

VOCAB, STEPS, GROWTHS = 61, 60, (20, 40)
# What a clock says, in lines of metrics.jsonl.
CLOCKED = ("tokens_per_second", "real_tokens_per_second", "trained_tokens_per_second", "flops_per_second", "memory", "loader_wait", "seconds", "communication_exposed",
           "slowest_rank", "slowest_rank_ratio")

CONFIG = """\
run: {{name: tiny, seed: 3, out: {out}}}
model: {{vocab_size: 61, width: 32, blocks: 6, attention: {{heads: 2, kv_heads: 1}}, feed_forward: {{inner: 48}}}}
growth: {{operator: lidas, from_blocks: 2, add_blocks: 2, schedule: {{kind: at_steps, at_steps: [20, 40]}}}}
data:
  sequence_length: 32
  sources: {{one: {{path: {data}/one}}, two: {{path: {data}/two}}}}
  validation: {{held: {{path: {data}/held}}, every: 10}}
phases:
  - {{name: first, from_step: 0, mixture: {{one: 0.7, two: 0.3}}}}
  - {{name: second, from_step: 40, mixture: {{one: 0.2, two: 0.8}}}}
optimizer: {{lr: 3e-3}}
schedule: {{steps: 60, warmup: 5}}
batch: {{tokens: 64, micro_sequences: 1}}
checkpoint: {{every: 2, keep_last: 2}}
logging: {{every: 1, sample_tokens: 4}}
"""


def write_shards(folder, documents=(60, 40, 6)):
    draw = np.random.default_rng(5)
    for name, count in zip(("one", "two", "held"), documents):
        write_shard(folder / name, VOCAB, [draw.integers(0, VOCAB, int(draw.integers(20, 120))) for _ in range(count)])


def write_config(folder, out="runs", name="run.yaml"):
    """Shards under `folder`/data, where they are not yet; the config's path. Runs go to `folder`/`out`/tiny."""
    data = folder / "data"
    if not data.exists():
        data.mkdir(parents=True)
        write_shards(data)
    path = folder / name
    path.write_text(CONFIG.format(out=folder / out, data=data))
    return path


def lines(folder):
    """Whole lines of metrics.jsonl as text."""
    path = folder / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    return [line for line in text.split("\n")[:-1] if line]


def numbers(folder):
    """Step and event lines without what a clock or a history decides: numbers stay the decimal text that stands in the file."""
    kept = []
    for line in lines(folder):
        values = json.loads(line, parse_float=str, parse_int=str)
        if values.get("event") in ("resume", "checkpoint"):
            continue
        for key in CLOCKED:
            values.pop(key, None)
        kept.append(values)
    return kept


def last_step(folder):
    """Step of the newest whole line that is a step's, 0 where there is none; cheap enough to ask all the time."""
    try:
        with open(folder / "metrics.jsonl", "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 2000))
            tail = file.read().split(b"\n")[:-1]
    except FileNotFoundError:
        return 0
    for line in reversed(tail):
        if line.startswith(b'{"step": '):
            return int(line[9 : line.index(b",")])
    return 0


def published(folder):
    found = [path for path in (folder / "checkpoints").glob("step-*") if path.name[5:].isdigit()]
    return sorted(found)


def pending(folder):
    try:
        return [name for name in os.listdir(folder / "checkpoints") if ".tmp-" in name]
    except FileNotFoundError:
        return []


def trouble_of(checkpoint):
    """What is wrong with a published checkpoint, None where it is whole: read here, without the program."""
    try:
        manifest = json.loads((checkpoint / "manifest.json").read_text())
        parts = sum(name.startswith("optimizer-") for name in manifest["files"])
        names = {"model.safetensors", "state.json", *(f"optimizer-{part}.safetensors" for part in range(max(1, parts)))}
        if set(manifest["files"]) != names:
            return f"{checkpoint}: manifest.json lists {sorted(manifest['files'])}"
        for name, said in manifest["files"].items():
            path = checkpoint / name
            if path.stat().st_size != said["bytes"] or xxh3_file(path) != said["xxh3"]:
                return f"{path}: not what manifest.json says"
    except (OSError, ValueError, KeyError) as error:
        return f"{checkpoint}: {error!r}"
    return None


def snapshot(folder):
    """Bytes and modification time of everything below, to see that nothing was touched."""
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
            for path in sorted(folder.rglob("*"))}
