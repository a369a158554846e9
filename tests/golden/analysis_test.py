#!/usr/bin/env python3
"""The instruments of `meristem analyze` once more, in PyTorch, from the protocols of docs/analysis.md: skip, local effect, output effect, norms, cosines, lens and
swap, on small models that the program trained. They must agree to 1e-4. Reads the weights out of the checkpoint's safetensors, one text and one intervention at a time.

    analysis_test.py MERISTEM
"""

import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

try:
    import numpy as np
    import torch
    from safetensors.torch import load_file
except ModuleNotFoundError as missing:
    print(f"skipped: {missing}")
    sys.exit(4)

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from text_commands import write_shard  # noqa: E402

VOCAB, WIDTH, HEADS, GROUPS, EPS = 61, 32, 4, 2, 1e-5
HEAD = WIDTH // HEADS
RUN = """
run: {{name: tiny, seed: 3, out: {out}}}
model: {{vocab_size: 61, width: 32, blocks: {blocks}, depth_plan: "{plan}", norm_eps: 1e-5, attention: {{heads: 4, kv_heads: 2}}, feed_forward: {{inner: 48}}}}
data: {{sequence_length: 64, sources: {{one: {{path: {data}}}}}}}
optimizer: {{lr: 1e-2}}
schedule: {{steps: 120, warmup: 5}}
batch: {{tokens: 512, micro_sequences: 8}}
checkpoint: {{every: 120}}
logging: {{every: 60}}
"""


def rms(x, gain):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + EPS) * gain


def rotated(x):
    """x: [T, heads, HEAD], by position, the first half of a head against the second."""
    frequency = 10000.0 ** (-torch.arange(HEAD // 2, dtype=x.dtype) / (HEAD // 2))
    angle = torch.arange(x.shape[0], dtype=x.dtype)[:, None] * frequency
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    left, right = x.chunk(2, -1)
    return torch.cat([left * cos - right * sin, right * cos + left * sin], -1)


class Decoder:
    def __init__(self, weights, plan):
        self.w, self.plan = {name: tensor.double() for name, tensor in weights.items()}, plan

    def attention(self, h, block):
        w, at = self.w, f"blocks.{block}.attention."
        q, k, v = (rms(h, w[at + "norm.weight"]) @ w[at + "qkv.weight"].T).split([HEADS * HEAD, GROUPS * HEAD, GROUPS * HEAD], -1)
        q, k, v = (x.reshape(len(h), -1, HEAD) for x in (q, k, v))
        q, k = rotated(q), rotated(k)
        out = []
        for head in range(HEADS):
            group = head // (HEADS // GROUPS)
            scores = q[:, head] @ k[:, group].T / math.sqrt(HEAD)
            scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -math.inf)
            out.append(scores.softmax(-1) @ v[:, group])
        return torch.cat(out, -1) @ w[at + "output.weight"].T

    def feed_forward(self, h, block):
        w, at = self.w, f"blocks.{block}.feed_forward."
        gate, up = (rms(h, w[at + "norm.weight"]) @ w[at + "gate_up.weight"].T).chunk(2, -1)
        return (torch.nn.functional.silu(gate) * up) @ w[at + "down.weight"].T

    def layer(self, h, block, attention=None, feed_forward=None):
        """(output, attention's contribution, feed-forward's); those given are put in place of the layer's own."""
        a = self.attention(h, block) if attention is None else attention(self.attention(h, block))
        m = self.feed_forward(h + a, block)
        m = m if feed_forward is None else feed_forward(m)
        return h + a + m, a, m

    def logits(self, h):
        return rms(h, self.w["norm.weight"]) @ self.w["embedding.weight"].T

    def trace(self, ids):
        """Inputs of the layers and the last output; the two contributions of each."""
        h, streams, attentions, mlps = self.w["embedding.weight"][ids], [], [], []
        for block in self.plan:
            streams.append(h)
            h, a, m = self.layer(h, block)
            attentions.append(a)
            mlps.append(m)
        return [*streams, h], attentions, mlps


def merged(changed, original, t):
    """Positions 1 … t - 1 of `changed`, all others of `original`."""
    return torch.cat([original[:1], changed[1:t], original[t:]])


def relative(original, changed, t):
    return ((original - changed)[t:].norm(dim=-1) / original[t:].norm(dim=-1).clamp(min=1e-6)).max().item()


def skipped(model, ids, part, t, s):
    """Contributions of the layers, and the last output, where layer s's part is skipped at the positions before t."""
    h, contributions = model.w["embedding.weight"][ids], []
    for place, block in enumerate(model.plan):
        before = h
        silent = lambda x: merged(torch.zeros_like(x), x, t)  # noqa: E731
        h, _, _ = model.layer(h, block, silent if place == s and part == "attention" else None, silent if place == s and part == "feed_forward" else None)
        if place == s and part == "layer":
            h = merged(before, h, t)
        contributions.append(h - before)
    return contributions, h


def future_effects(model, ids, part, boundaries):
    streams, _, _ = model.trace(ids)
    original = [after - before for before, after in zip(streams, streams[1:])]
    p, calls = model.logits(streams[-1]).softmax(-1), len(model.plan)
    effect, output = np.full((calls, calls), np.nan), np.zeros(calls)
    for t in boundaries:
        for s in range(calls):
            changed, last = skipped(model, ids, part, t, s)
            for layer in range(s + 1, calls):
                effect[s, layer] = np.nanmax([effect[s, layer], relative(original[layer], changed[layer], t)])
            output[s] = max(output[s], (p - model.logits(last).softmax(-1))[t:].norm(dim=-1).max().item())
    return effect, output


def local_effects(model, ids, part, boundaries):
    streams, attentions, mlps = model.trace(ids)
    calls = len(model.plan)
    taken = {"layer": [after - before for before, after in zip(streams, streams[1:])], "attention": attentions, "feed_forward": mlps}[part]
    effect = np.full((calls, calls), np.nan)
    for t in boundaries:
        for s in range(calls):
            for layer in range(s + 1, calls):
                given = merged(streams[layer] - taken[s], streams[layer], t)
                changed = model.layer(given, model.plan[layer])[0] - given
                effect[s, layer] = np.nanmax([effect[s, layer], relative(streams[layer + 1] - streams[layer], changed, t)])
    return effect


def norms_and_cosines(model, ids):
    streams, attentions, mlps = model.trace(ids)
    cosine = torch.nn.functional.cosine_similarity
    norms, cosines = {}, {}
    pairs = {"": [(after - before, before) for before, after in zip(streams, streams[1:])], "attention": list(zip(attentions, streams)),
             "feed_forward": [(m, h + a) for m, h, a in zip(mlps, streams, attentions)]}
    for part, of_part in pairs.items():
        norms[part] = [(added.norm(dim=-1) / read.norm(dim=-1)).mean().item() for added, read in of_part]
        cosines[part] = [cosine(added, read, dim=-1).mean().item() for added, read in of_part]
    return norms, cosines, [h.norm(dim=-1).mean().item() for h in streams]


def lens(model, ids):
    streams, _, _ = model.trace(ids)
    final = model.logits(streams[-1]).log_softmax(-1)
    kl, overlap, accuracy = [], [], []
    for h in streams[1:]:
        early = model.logits(h).log_softmax(-1)
        kl.append((early.exp() * (early - final)).sum(-1).mean().item())
        both = [len(set(mine.tolist()) & set(theirs.tolist())) for mine, theirs in zip(early.topk(5).indices, final.topk(5).indices)]
        overlap.append(sum(both) / len(both) / 5)
        accuracy.append((early[:-1].argmax(-1) == ids[1:]).double().mean().item())
    return kl, overlap, accuracy


def loss_in_order(model, ids, order):
    """Mean loss where the layers run in another order. The first token's states are at each depth what they are without the change, and other tokens see those."""
    streams, _, _ = model.trace(ids)
    h = model.w["embedding.weight"][ids]
    for depth, place in enumerate(order):
        h = torch.cat([streams[depth][:1], h[1:]])
        h, _, _ = model.layer(h, model.plan[place])
    h = torch.cat([streams[-1][:1], h[1:]])
    return torch.nn.functional.cross_entropy(model.logits(h)[:-1], ids[1:]).item()


def swaps(model, ids):
    calls = len(model.plan)
    plain = loss_in_order(model, ids, range(calls))
    found = {}
    for size in (1, 2, 4, 8):
        for start in range(calls - 2 * size + 1):
            order = [*range(start), *range(start + size, start + 2 * size), *range(start, start + size), *range(start + 2 * size, calls)]
            found[size, start] = loss_in_order(model, ids, order) - plain
    return found


worst = 0.0


def compare(what, found, expected):
    global worst
    found, expected = np.array(found, float), np.array(expected, float)
    assert (np.isnan(found) == np.isnan(expected)).all(), f"{what}: defined at other places"
    off = np.nanmax(np.abs(found - expected) / np.maximum(1, np.abs(expected)))
    worst = max(worst, off)
    assert off < 1e-4, f"{what}: off by {off:.2e}:\n{found}\n{expected}"


def check(answer, model, texts):
    measured = answer["measured"]
    own = lambda name, variant="": measured[name]["variants"][variant] if variant else measured[name]["values"]  # noqa: E731
    for number, ids in enumerate(texts):
        ids = torch.tensor(ids)
        boundaries = answer["boundaries"][number]
        assert boundaries and all(8 <= t < len(ids) - 4 and t % 8 == 0 for t in boundaries), boundaries
        norms, cosines, residual = norms_and_cosines(model, ids)
        for part in norms:
            compare(f"norms {part}", own("norms", part)[number], norms[part])
            compare(f"cosines {part}", own("cosines", part)[number], cosines[part])
        compare("residual norm", own("residual_norm")[number], residual)
        kl, overlap, accuracy = lens(model, ids)
        compare("lens kl", own("lens_kl")[number], kl)
        compare("lens overlap", own("lens_overlap")[number], overlap)
        compare("early exit", own("early_exit_accuracy")[number], accuracy)
        for part, variant in (("layer", ""), ("attention", "attention"), ("feed_forward", "feed_forward")):
            effect, output = future_effects(model, ids, part, boundaries)
            compare(f"future effect {variant}", own("future_effect", variant)[number], effect)
            compare(f"output effect {variant}", own("output_effect", variant)[number], output)
            compare(f"local effect {variant}", own("local_effect", variant)[number], local_effects(model, ids, part, boundaries))
        found = own("swap")[number]
        for (size, start), change in swaps(model, ids).items():
            compare(f"swap {size} at {start}", found[answer["sizes"]["swap"].index(size)][start], change)


def main():
    program = sys.argv[1]
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        generator = np.random.default_rng(5)
        documents = [[int(x) for x in (start + step * np.arange(90)) % VOCAB] for start, step in generator.integers(1, VOCAB, (200, 2))]
        write_shard(folder / "data", VOCAB, documents)
        texts = [documents[3][:61], documents[8][:40], [int(x) for x in generator.integers(0, VOCAB, 50)]]
        (folder / "texts.jsonl").write_text("".join(json.dumps({"ids": ids}) + "\n" for ids in texts))
        for blocks, plan, calls in ((5, "0-4", [0, 1, 2, 3, 4]), (3, "0, (1)x3, 2", [0, 1, 1, 1, 2])):
            (folder / "run.yaml").write_text(RUN.format(out=folder / f"runs{blocks}", data=folder / "data", blocks=blocks, plan=plan))
            subprocess.run([program, "train", folder / "run.yaml"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
            run = folder / f"runs{blocks}" / "tiny"
            answer = json.loads(subprocess.run([program, "analyze", run, "--text-ids", folder / "texts.jsonl", "--measure", "future,local,norms,lens,swap"], check=True,
                                               stdout=subprocess.PIPE, env=environment).stdout)
            assert answer["calls"] == calls, answer["calls"]
            weights = load_file(Path(answer["checkpoint"]) / "model.safetensors")
            check(answer, Decoder(weights, calls), texts)
            print(f"{plan}: agrees, the largest difference so far {worst:.1e}")


if __name__ == "__main__":
    main()
