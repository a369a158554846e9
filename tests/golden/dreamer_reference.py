#!/usr/bin/env python3
"""The Dreamer-style block once more, in PyTorch, from the formulas of docs/architectures.md: outputs, loss and every gradient must agree with
the C++ model to 1e-5, and the FLOPs that PyTorch counts with those that `plan` says to 1 %.

    dreamer_reference.py DRIVER     DRIVER: golden_dreamer, which writes a model's weights, inputs and results as safetensors

Each case is a model section as `meristem train` reads it; the driver gets the same text. Tensors are compared relative to their largest entry.
"""

import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

try:
    import torch
    import torch.nn.functional as F
    import yaml
    from safetensors.torch import load_file
    from torch.utils.flop_counter import FlopCounterMode
except ModuleNotFoundError as missing:
    print(f"skipped: {missing}")
    sys.exit(4)

CASES = {
    "dreamer": """
        architecture: dreamer
        blocks: 1
        depth_plan: "(0)x4"
        depth_attention: {kind: separate}
        feed_forward: {kind: experts, count: 8, active: 3, inner: 16, router_dim: 8}""",
    "cycle of two with many heads, updates, no position, shared expert, QK norm": """
        architecture: dreamer
        blocks: 2
        depth_plan: "(0-1)x2"
        attention: {heads: 4, kv_heads: 2, qk_norm: true}
        depth_attention: {kind: separate, heads: 4, keys: updates, position: none}
        feed_forward: {kind: experts, count: 6, active: 2, inner: 16, shared: 1, router_dim: 6}""",
    "sandwich norm": """
        architecture: dreamer
        blocks: 1
        depth_plan: "(0)x3"
        norm: sandwich
        depth_attention: {kind: separate, heads: 2}
        feed_forward: {kind: swiglu, inner: 48}""",
    "post norm, QK norm over all heads": """
        architecture: dreamer
        blocks: 2
        depth_plan: "(0-1)x2"
        norm: post
        attention: {heads: 4, kv_heads: 2, qk_norm: true, qk_norm_over: all}
        depth_attention: {kind: separate, heads: 2}
        feed_forward: {kind: experts, count: 6, active: 2, inner: 16, shared: 1, router_dim: 6}""",
    "joint": """
        architecture: dreamer
        blocks: 2
        depth_plan: "0, (1)x3"
        attention: {heads: 4, kv_heads: 2}
        depth_attention: {kind: joint}
        feed_forward: {kind: experts, count: 8, active: 2, inner: 16}""",
    "values": """
        architecture: dreamer
        blocks: 1
        depth_plan: "(0)x4"
        attention: {heads: 4, kv_heads: 2}
        depth_attention: {kind: values}
        feed_forward: {kind: swiglu, inner: 48}""",
    "memory under added injection, states as calls left them": """
        architecture: dreamer
        blocks: 3
        depth_plan: "0, (1)x3, 2"
        loop: {injection: add}
        depth_attention: {kind: separate}
        feed_forward: {kind: swiglu, inner: 48}""",
    "memory of updates under added injection": """
        architecture: dreamer
        blocks: 2
        depth_plan: "(0-1)x3"
        loop: {injection: add}
        depth_attention: {kind: separate, heads: 2, keys: updates}
        feed_forward: {kind: swiglu, inner: 48}""",
    "memory of updates under concat, cut, computed again": """
        architecture: dreamer
        blocks: 3
        depth_plan: "0, (1)x4, 2"
        loop: {injection: concat, backprop_last: 2}
        depth_attention: {kind: separate, heads: 2, keys: updates, position: none}
        feed_forward: {kind: swiglu, inner: 48}
        memory: {activation_checkpointing: {every: 2}}""",
    "joint, cut: the prelude learns through the memory": """
        architecture: dreamer
        blocks: 3
        depth_plan: "0, (1)x3, 2"
        loop: {backprop_last: 1}
        attention: {heads: 4, kv_heads: 2}
        depth_attention: {kind: joint}
        feed_forward: {kind: swiglu, inner: 48}""",
    "blocks in several loops": """
        architecture: decoder
        blocks: 4
        depth_plan: "(0-1)x3, (1-3)x2, (0)x2, 2"
        feed_forward: {kind: swiglu, inner: 48}""",
    "a loop's block before and behind it, cut, computed again": """
        architecture: decoder
        blocks: 3
        depth_plan: "0-1, (1-2)x4, 1"
        loop: {injection: add, backprop_last: 2}
        feed_forward: {kind: swiglu, inner: 48}
        memory: {activation_checkpointing: block}""",
    "layered mixture of experts": """
        architecture: decoder
        blocks: 3
        depth_plan: "0-2"
        feed_forward: {kind: experts, count: 8, active: 2, inner: 16}""",
}
VOCAB, WIDTH, LENGTH, SEQUENCES, EPS, THETA = 61, 32, 12, 3, 1e-5, 10000.0
TOLERANCE = 1e-5
FLOPS_TOLERANCE = 0.01


def rms(x, gain):
    return x / torch.sqrt(x.square().mean(-1, keepdim=True) + EPS) * gain


def turn(x, position):
    """RoPE in half-split pairs on the last axis; position broadcasts over the axes before it."""
    half = x.shape[-1] // 2
    angle = position[..., None] * THETA ** (-torch.arange(half, dtype=torch.float64) / half)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1)


def encoding(r, size):
    i = torch.arange(0, size, 2, dtype=torch.float64)
    angle = r / 10000 ** (i / size)
    return torch.stack([angle.sin(), angle.cos()], -1).flatten()


def attend(q, keys, values):
    """Softmax over a list of keys for each head: q and the entries are [B, T, heads, K]. The products are matrix products, so that they are counted."""
    score = torch.einsum("bthk,bthki->bthi", q, torch.stack(keys, -1)) / math.sqrt(q.shape[-1])
    return torch.einsum("bthi,bthki->bthk", score.softmax(-1), torch.stack(values, -1))


def swiglu(gate_up):
    gate, up = gate_up.chunk(2, -1)
    return F.silu(gate) * up


class Dreamer:
    """h: [B, T, D] throughout."""

    def __init__(self, model, weights):
        self.w, self.ff, self.depth = weights, model["feed_forward"], model.get("depth_attention")
        attention = model.get("attention", {"heads": 4, "kv_heads": 4})
        self.heads, self.kv_heads, self.qk_norm = attention["heads"], attention["kv_heads"], attention.get("qk_norm", False)
        self.head_dim = WIDTH // self.heads
        self.qk_norm_over, self.norm = attention.get("qk_norm_over", "heads"), model.get("norm", "pre")
        self.calls, self.span = model["calls"], model["loop_span"]
        self.loop = model.get("loop", {})

    def logits(self, tokens):
        h = self.w["embedding.weight"][tokens]
        self.states, self.begun, self.keys, self.values = [h], [], [], []  # states: as calls left them; begun: what they began with
        start, length, repeats = self.span
        cut = repeats - self.loop.get("backprop_last", repeats)
        for r, block in enumerate(self.calls, 1):
            place = r - 1 - start
            in_loop = 0 <= place < length * repeats
            with torch.set_grad_enabled(not in_loop or place // length >= cut):
                if in_loop and place % length == 0:
                    h = self.injected(h, place == 0)
                self.begun.append(h)
                h = self.call(h, r, f"blocks.{block}.")
            self.states.append(h)
        return rms(h, self.w["norm.weight"]) @ self.w["embedding.weight"].T

    def injected(self, h, first):
        self.first_input = h if first else self.first_input
        kind = self.loop.get("injection", "none")
        if kind == "concat":
            return torch.cat([h, self.first_input], -1) @ self.w["injection.weight"].T
        return h + self.first_input if kind == "add" and not first else h

    def call(self, h, r, at):
        h = self.add(h, self.sequence_attention(h, at + "attention."), at + "attention")
        if self.depth and self.depth["kind"] == "separate":
            h = self.add(h, self.depth_attention(h, r, at + "depth_attention."), at + "depth_attention")
        feed_forward = self.experts(h, r, at + "feed_forward.") if self.ff["kind"] == "experts" else self.dense(h, at + "feed_forward.")
        return self.add(h, feed_forward, at + "feed_forward")

    def add(self, h, contribution, name):
        if self.norm == "post":
            return h + rms(contribution, self.w[name + "_output_norm.weight"])
        return rms(h + contribution, self.w[name + "_sum_norm.weight"]) if self.norm == "sandwich" else h + contribution

    def input(self, h, name):
        """What a mixer reads."""
        return h if self.norm == "post" else rms(h, self.w[name + ".weight"])

    def sequence_attention(self, h, at):
        B, T, _ = h.shape
        G, H, K = self.kv_heads, self.heads, self.head_dim
        q, k, v = (self.input(h, at + "norm") @ self.w[at + "qkv.weight"].T).split([H * K, G * K, G * K], -1)
        if self.qk_norm and self.qk_norm_over == "all":
            q, k = rms(q, self.w[at + "q_norm.weight"]), rms(k, self.w[at + "k_norm.weight"])
        q, k, v = q.view(B, T, H, K), k.view(B, T, G, K), v.view(B, T, G, K)
        if self.qk_norm and self.qk_norm_over == "heads":
            q, k = rms(q, self.w[at + "q_norm.weight"]), rms(k, self.w[at + "k_norm.weight"])
        position = torch.arange(T, dtype=torch.float64)[:, None]
        q, k = turn(q, position), turn(k, position)
        kind = self.depth["kind"] if self.depth else None
        if kind == "values":
            mean_q = q.view(B, T, G, H // G, K).mean(3)
            self.keys.append(k)
            v = attend(mean_q, self.keys, [*self.values, v])
            self.values.append(v)
        wide = lambda x: x.repeat_interleave(H // G, 2)  # noqa: E731
        score = torch.einsum("bthk,bshk->bhts", q, wide(k)) / math.sqrt(K)
        score = score.masked_fill(torch.ones(T, T, dtype=torch.bool).triu(1), -math.inf)
        if kind == "joint" and self.keys:
            over_depth = torch.einsum("bthk,bthki->bhti", q, torch.stack([wide(key) for key in self.keys], -1)) / math.sqrt(K)
            score = torch.cat([score, over_depth], -1)
        weight = score.softmax(-1)
        out = torch.einsum("bhts,bshk->bthk", weight[..., :T], wide(v))
        if kind == "joint":
            if self.values:
                out = out + torch.einsum("bhti,bthki->bthk", weight[..., T:], torch.stack([wide(value) for value in self.values], -1))
            self.keys.append(k)
            self.values.append(v)
        return out.reshape(B, T, H * K) @ self.w[at + "output.weight"].T

    def depth_attention(self, h, r, at):
        heads = self.depth.get("heads", max(1, WIDTH // 256))
        rope = self.depth.get("position", "rope") == "rope"
        by_head = lambda x: x.view(*x.shape[:2], heads, WIDTH // heads)  # noqa: E731
        place = lambda x, depth: turn(x, torch.tensor(float(depth), dtype=torch.float64)) if rope else x  # noqa: E731
        source = self.states[-1]
        if self.depth.get("keys") == "updates" and r > 1:
            source = self.states[-1] - self.begun[-2]  # what the call before added to what it began with
        key, value = (self.input(source, at + "key_norm") @ self.w[at + "key_value.weight"].T).chunk(2, -1)
        self.keys.append(place(by_head(key), r - 1))
        self.values.append(by_head(value))
        q = place(by_head(self.input(h, at + "norm") @ self.w[at + "query.weight"].T), r)
        return attend(q, self.keys, self.values).flatten(2) @ self.w[at + "output.weight"].T

    def dense(self, h, at):
        return swiglu(self.input(h, at + "norm") @ self.w[at + "gate_up.weight"].T) @ self.w[at + "down.weight"].T

    def experts(self, h, r, at):
        u = self.input(h, at + "norm")
        x = (u @ self.w[at + "router.weight"].T + encoding(r, self.ff.get("router_dim", 64))) @ self.w[at + "router_keys"].T
        chosen = (x + self.w[at + "balance_bias"]).topk(self.ff["active"], -1).indices
        mask = torch.zeros_like(x).scatter(-1, chosen, 1.0)
        weight = torch.sigmoid(x) * mask
        weight = weight / weight.sum(-1, keepdim=True)
        out = 0
        for e in range(self.ff["count"]):
            out = out + weight[..., e, None] * (swiglu(u @ self.w[at + "gate_up"][e].T) @ self.w[at + "down"][e].T)
        if self.ff.get("shared"):
            out = out + swiglu(u @ self.w[at + "shared_gate_up.weight"].T) @ self.w[at + "shared_down.weight"].T
        return out


class MemoryWithInjection(Dreamer):
    """h as calls begin with it, not as the ones before left it."""

    def depth_attention(self, h, r, at):
        left, self.states = self.states, self.begun
        out = super().depth_attention(h, r, at)
        self.states = left
        return out


class RouterOneCallLate(Dreamer):
    def experts(self, h, r, at):
        return super().experts(h, r + 1, at)


class DepthsWithoutPosition(Dreamer):
    def __init__(self, model, weights):
        super().__init__(model, weights)
        self.depth = {**self.depth, "position": "none"}


class ValuesOfTheFirstStateTwice(Dreamer):
    def depth_attention(self, h, r, at):
        out = super().depth_attention(h, r, at)
        self.values[-1] = self.values[0]
        return out


def compare(name, found, expected):
    error = (found.double() - expected).abs().max().item() / max(expected.abs().max().item(), 1e-30)
    assert error <= TOLERANCE, f"{name}: relative error {error:.2e}, allowed {TOLERANCE}"
    return error


def counted_as_plan_does(flops, model):
    """Per token, without what this transcription computes and masks: half of the attention square, and experts that were not chosen."""
    ff, calls = model["feed_forward"], len(model["calls"])
    flops -= calls * 4 * WIDTH * LENGTH / 2
    if ff["kind"] == "experts":
        flops -= calls * (ff["count"] - ff["active"]) * 6 * WIDTH * ff["inner"]
    return flops


def check(case, text, driver, folder, transcription=Dreamer):
    model = yaml.safe_load(text)
    config = folder / "run.yaml"
    lines = [line.strip() for line in text.strip().split("\n")]
    memory = "".join(line + "\n" for line in lines if line.startswith("memory:"))
    body = "\n".join("  " + line for line in lines if not line.startswith("memory:"))
    config.write_text(f"model:\n  vocab_size: {VOCAB}\n  width: {WIDTH}\n{body}\n{memory}"
                      f"data: {{sequence_length: {LENGTH}, sources: {{none: {{path: none}}}}}}\nbatch: {{tokens: {LENGTH * SEQUENCES}}}\n")
    said = json.loads(subprocess.run([driver, config, folder / "out.safetensors"], check=True, capture_output=True, text=True).stdout)
    model["calls"], model["loop_span"] = said["calls"], said["loop"]
    tensors = load_file(folder / "out.safetensors")
    weights = {name[7:]: value.double().requires_grad_() for name, value in tensors.items() if name.startswith("weight.")}
    shape = (SEQUENCES, LENGTH)
    counter = FlopCounterMode(display=False)
    with counter:
        logits = transcription(model, weights).logits(tensors["tokens"].long().view(shape))
    loss = F.cross_entropy(logits.flatten(0, 1), tensors["targets"].long(), reduction="sum")
    loss.backward()
    worst = max(compare("logits", tensors["logits"], logits.detach().flatten(0, 1)), compare("loss", tensors["loss"], loss.detach()))
    for name, weight in weights.items():
        if name.endswith("balance_bias"):
            continue
        gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad
        worst = max(worst, compare("gradient of " + name, tensors.get("gradient." + name, torch.zeros_like(weight)), gradient))
    flops = counted_as_plan_does(counter.get_total_flops() / (LENGTH * SEQUENCES), model)
    difference = flops / said["flops_per_token_forward"] - 1
    assert abs(difference) <= FLOPS_TOLERANCE, f"{case}: PyTorch counts {flops} FLOPs per token, plan {said['flops_per_token_forward']}"
    print(f"{case}: {len(weights)} tensors, largest relative error {worst:.1e}; FLOPs differ by {difference:+.1e}")


def main():
    torch.set_num_threads(1)
    for case, text in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            check(case, text, sys.argv[1], Path(folder))
    injected = "memory under added injection, states as calls left them"
    for wrong, case in ((RouterOneCallLate, "dreamer"), (DepthsWithoutPosition, "dreamer"), (ValuesOfTheFirstStateTwice, "dreamer"),
                        (MemoryWithInjection, injected)):
        with tempfile.TemporaryDirectory() as folder:
            try:
                check(case, CASES[case], sys.argv[1], Path(folder), wrong)
            except AssertionError as caught:
                print(f"{wrong.__name__} is caught: {caught}")
            else:
                sys.exit(f"{wrong.__name__} went unnoticed")


if __name__ == "__main__":
    main()
