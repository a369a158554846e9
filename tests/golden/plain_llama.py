"""The same decoder once more, in the fewest lines of plain PyTorch: in fp64 it is the truth, in bf16 what a plain program achieves.

In bf16: weight copies, activations and the inputs of products bf16; norms, RoPE and the loss fp32 inside: the table of docs/numerics.md.
"""

import torch
from torch.nn.functional import cross_entropy, linear, scaled_dot_product_attention, silu

from driver import Result


class PlainLlama:
    def __init__(self, shape, weights, compute):
        self.shape, self.compute = shape, compute
        self.wide = torch.float64 if compute == torch.float64 else torch.float32
        # Gains of norms stay wide.
        self.weights = {name: tensor.detach().to(self.wide if tensor.dim() == 1 else compute).requires_grad_() for name, tensor in weights.items()}

    def norm(self, x, name):
        x = x.to(self.wide)
        return (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.shape.eps) * self.weights[name]).to(self.compute)

    def rotate(self, x):
        """x [heads, T, K]: dimension i turns with i + K/2 by t * theta^(-2i/K)."""
        half = self.shape.head_dim // 2
        frequencies = self.shape.theta ** (-torch.arange(half, dtype=self.wide) / half)
        angle = torch.arange(x.shape[1], dtype=self.wide)[:, None] * frequencies
        a, b = x.to(self.wide).split(half, -1)
        return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1).to(self.compute)

    def attention(self, h, at):
        s, w = self.shape, self.weights
        qkv = linear(self.norm(h, at + "norm.weight"), w[at + "qkv.weight"]).view(len(h), -1, s.head_dim).transpose(0, 1)
        q, k, v = qkv.split([s.heads, s.kv_heads, s.kv_heads])
        group = s.heads // s.kv_heads
        k, v = self.rotate(k).repeat_interleave(group, 0), v.repeat_interleave(group, 0)
        mixed = scaled_dot_product_attention(self.rotate(q)[None], k[None], v[None], is_causal=True)[0]
        return linear(mixed.transpose(0, 1).reshape(len(h), -1), w[at + "output.weight"])

    def feed_forward(self, h, at):
        gate, up = linear(self.norm(h, at + "norm.weight"), self.weights[at + "gate_up.weight"]).chunk(2, -1)
        return linear(silu(gate) * up, self.weights[at + "down.weight"])

    def logits(self, tokens):
        """[T, V] of one document, in the compute type."""
        h = self.weights["embedding.weight"][tokens]
        for block in range(self.shape.layers):
            h = h + self.attention(h, f"blocks.{block}.attention.")
            h = h + self.feed_forward(h, f"blocks.{block}.feed_forward.")
        return linear(self.norm(h, "norm.weight"), self.weights["embedding.weight" if self.shape.tied else "head.weight"])

    def run(self, batch):
        """Each document a micro-batch of its own, its gradients added up in fp32 (fp64)."""
        gradients = {name: torch.zeros_like(tensor, dtype=self.wide) for name, tensor in self.weights.items()}
        logits, losses = [], []
        for inputs, targets in batch.documents():
            logits.append(self.logits(inputs))
            losses.append(cross_entropy(logits[-1].to(self.wide), targets, ignore_index=-1, reduction="sum"))
            for (name, _), gradient in zip(self.weights.items(), torch.autograd.grad(losses[-1], list(self.weights.values()))):
                gradients[name] += gradient
        counts = torch.tensor([(targets >= 0).sum() for _, targets in batch.documents()])
        losses = torch.stack(losses).detach().double()
        return Result(torch.cat(logits).detach(), gradients, (losses.sum() / counts.sum()).item(), losses / counts)
