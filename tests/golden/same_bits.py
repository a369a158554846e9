"""Two builds of the program train the same runs, and every loss, gradient norm and final tensor must have the same bits.

    same_bits.py OLD NEW [--only NAME…] [--keep FOLDER]

OLD, NEW: two `meristem` binaries. The evidence that a refactoring of training, data, models or optimizer changed no number. Each run is also
resumed in its middle: NEW goes on from a checkpoint that OLD wrote, and must end in the same bits. Exit code 1 where anything differs.
"""

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e" / "train"))
import tiny_run  # noqa: E402

COMMON = """\
run: {{name: {name}, seed: 3, out: {out}}}
data:
  sequence_length: 32
  {more}
  sources: {sources}
  validation: {{held: {{path: {data}/held}}, every: 10}}
optimizer: {{lr: 3e-3, skip_spikes: true}}
schedule: {{steps: 40, warmup: 5}}
batch: {{tokens: 256, micro_sequences: 4}}
checkpoint: {{every: 10, keep_last: 9}}
logging: {{every: 1, sample_tokens: 4, tensorboard: false}}
"""
SMALL = "attention: {heads: 2, kv_heads: 1}, feed_forward: {inner: 48}"
GROWING = f"""\
model: {{vocab_size: 61, width: 32, blocks: 6, {SMALL}}}
growth: {{operator: lidas, from_blocks: 2, add_blocks: 2, schedule: {{kind: at_steps, at_steps: [13, 26]}}}}
"""
RUNS = {
    "growth-fp32": GROWING,
    "growth-bf16": GROWING + "precision: {compute: bf16}\n",
    "growth-zero-moments": GROWING.replace("operator: lidas", "operator: midas, moments: zero, rewarm_steps: 3"),
    "loop": f"""\
model: {{vocab_size: 61, width: 32, blocks: 4, depth_plan: "0, (1-2)x3, 3", {SMALL}, norm: sandwich, loop: {{injection: concat, backprop_last: 2}}}}
memory: {{activation_checkpointing: block}}
""",
    "loop-sampled": f"""\
model: {{vocab_size: 61, width: 32, blocks: 3, depth_plan: "0, (1)x2, 2", {SMALL}, loop: {{repeats: {{kind: poisson_lognormal, mean: 2, sigma: 0.5, max: 4}}}}}}
precision: {{compute: bf16}}
""",
    "dreamer": """\
model:
  architecture: dreamer
  vocab_size: 61
  width: 32
  blocks: 1
  depth_plan: "(0)x4"
  attention: {heads: 2, kv_heads: 1}
  depth_attention: {kind: separate}
  feed_forward: {kind: experts, count: 8, active: 2, shared: 1, inner: 16, router_dim: 16, balance_rate: 1e-2}
""",
    "dreamer-joint-bf16": """\
model:
  architecture: dreamer
  vocab_size: 61
  width: 32
  blocks: 2
  depth_plan: "(0-1)x2"
  attention: {heads: 2, kv_heads: 1}
  depth_attention: {kind: joint}
  feed_forward: {kind: experts, count: 8, active: 2, inner: 16, router_dim: 16, balance_rate: 1e-2}
precision: {compute: bf16}
memory: {activation_checkpointing: {every: 2}}
""",
    "sft": f"""\
model: {{vocab_size: 61, width: 32, blocks: 3, {SMALL}}}
""",
    "cooldown": f"""\
model: {{vocab_size: 61, width: 32, blocks: 4, {SMALL}}}
phases:
  - {{name: stable, from_step: 0, mixture: {{one: 0.9, two: 0.1}}}}
  - {{name: cooldown, from_step: 18, mixture: {{one: 0.1, two: 0.9}}, ramp_steps: 9, depth_plan: "0, (1-2)x2, 3"}}
""",
}


def write_masked(prefix, documents=80):
    """Documents of which some tokens are trained on, and some of which all are."""
    draw = np.random.default_rng(6)
    ids, masks = [], []
    for number in range(documents):
        length = int(draw.integers(4, 30))
        ids.append(draw.integers(0, tiny_run.VOCAB, length))
        masks.append(np.arange(length) >= (0 if number % 9 == 0 else length // 2))
    tiny_run.write_shard(prefix, tiny_run.VOCAB, ids, masks)


def config_text(run, name, out, data):
    """One of RUNS as a whole config."""
    sources = f"{{masked: {{path: {data}/masked}}}}" if run == "sft" else f"{{one: {{path: {data}/one}}, two: {{path: {data}/two}}}}"
    return COMMON.format(name=name, out=out, data=data, sources=sources, more="packing: best_fit" if run == "sft" else "document_mask: true") + RUNS[run]


def write_config(folder, name, out):
    """The run `name` as a config that writes to `folder`/`out`; its data is made once."""
    data = folder / "data"
    if not data.exists():
        data.mkdir(parents=True)
        tiny_run.write_shards(data)
        write_masked(data / "masked")
    path = folder / f"{name}-{out}.yaml"
    path.write_text(config_text(name, name, folder / out, data))
    return path


def train(program, config, *arguments):
    code, _, err = tiny_run.run(program, "train", config, *arguments)
    if code != 0:
        sys.exit(f"{program} train {config}: exit code {code}\n{err}")


def bits_of(run):
    """What a run computed: its metrics without clocks, and a digest of each tensor of its last checkpoint."""
    last = tiny_run.published(run)[-1]
    digests = {}
    for file in sorted(last.glob("*.safetensors")):
        raw = file.read_bytes()
        size = int.from_bytes(raw[:8], "little")
        for name, entry in json.loads(raw[8 : 8 + size]).items():
            if name != "__metadata__":
                begin, end = entry["data_offsets"]
                digests[name] = hashlib.sha256(raw[8 + size + begin : 8 + size + end]).hexdigest()
    return tiny_run.numbers(run), digests


def difference(wanted, found):
    """The first thing that is not the same, None where all is."""
    for a, b in zip(wanted[0], found[0]):
        if a != b:
            keys = [key for key in sorted(a.keys() | b.keys()) if a.get(key) != b.get(key)]
            return f"step {a.get('step')}: {', '.join(f'{key} {a.get(key)} / {b.get(key)}' for key in keys)}"
    if len(wanted[0]) != len(found[0]):
        return f"{len(wanted[0])} / {len(found[0])} lines of metrics"
    for name in sorted(wanted[1].keys() | found[1].keys()):
        if wanted[1].get(name) != found[1].get(name):
            return f"tensor {name} of the last checkpoint"
    return None


def resume_in_the_middle(program, folder, name, out):
    """A copy of a whole run, cut back to its second checkpoint, and trained to its end again."""
    config = write_config(folder, name, out)
    shutil.copytree(folder / "old" / name, folder / out / name)
    for checkpoint in tiny_run.published(folder / out / name)[2:]:
        shutil.rmtree(checkpoint)
    train(program, config, "--resume", "auto")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--keep", type=Path, help="a new folder for runs and checkpoints, kept afterwards")
    options = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(exist_ok=True)
        for name in options.only:
            train(options.old, write_config(folder, name, "old"))
            train(options.new, write_config(folder, name, "new"))
            resume_in_the_middle(options.new, folder, name, "resumed")
            wanted = bits_of(folder / "old" / name)
            for out in ("new", "resumed"):
                found = difference(wanted, bits_of(folder / out / name))
                failed += found is not None
                print(f"{name:22} {out:8} {'same bits' if found is None else 'DIFFERS: ' + found}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
