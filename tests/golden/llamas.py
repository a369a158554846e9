"""The same decoder in other hands: transformers', and a plain one in PyTorch."""

import torch
from torch.nn.functional import cross_entropy, linear, scaled_dot_product_attention, silu

from driver import Result


def make_twin(shape, device="cpu"):
    """transformers' LlamaForCausalLM of a shape (with QK norm: Qwen3's; or OLMo 2's). Random weights, larger than at the start of a training and with gains that are not 1, so that every part matters in the result."""
    from transformers import LlamaConfig, LlamaForCausalLM, Olmo2Config, Olmo2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

    config_class, model_class = (Qwen3Config, Qwen3ForCausalLM) if shape.qk_norm else (LlamaConfig, LlamaForCausalLM)
    if shape.olmo2:
        config_class, model_class = Olmo2Config, Olmo2ForCausalLM
    config = config_class(
        vocab_size=shape.vocab, hidden_size=shape.width, intermediate_size=shape.inner, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, head_dim=shape.head_dim, max_position_embeddings=shape.context,
        rms_norm_eps=shape.eps, rope_parameters={"rope_type": "default", "rope_theta": shape.theta}, tie_word_embeddings=shape.tied,
        attention_bias=False, use_cache=False, attn_implementation="eager")
    with torch.device(device):
        model = model_class(config)
    if device != "meta":
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(1 + 0.2 * noise if parameter.dim() == 1 else 0.1 * noise)
    return model


def in_our_names(model, shape, tensor_of=lambda parameter: parameter.detach()):
    """tensor_of(parameter) for every parameter, joined where ours are: query, key and value; gate and up."""
    parameters = {name.removeprefix("model."): tensor_of(parameter) for name, parameter in model.named_parameters()}

    def take(*names):
        return torch.cat([parameters.pop(name + ".weight") for name in names])

    ours = {"embedding.weight": take("embed_tokens")}
    for i in range(shape.layers):
        theirs, block = f"layers.{i}.", f"blocks.{i}."
        if shape.olmo2:
            ours[block + "attention_output_norm.weight"] = take(theirs + "post_attention_layernorm")
            ours[block + "feed_forward_output_norm.weight"] = take(theirs + "post_feedforward_layernorm")
        else:
            ours[block + "attention.norm.weight"] = take(theirs + "input_layernorm")
            ours[block + "feed_forward.norm.weight"] = take(theirs + "post_attention_layernorm")
        ours[block + "attention.qkv.weight"] = take(*(f"{theirs}self_attn.{name}_proj" for name in "qkv"))
        if shape.qk_norm or shape.olmo2:
            for name in ("q_norm", "k_norm"):
                ours[f"{block}attention.{name}.weight"] = take(f"{theirs}self_attn.{name}")
        ours[block + "attention.output.weight"] = take(theirs + "self_attn.o_proj")
        ours[block + "feed_forward.gate_up.weight"] = take(theirs + "mlp.gate_proj", theirs + "mlp.up_proj")
        ours[block + "feed_forward.down.weight"] = take(theirs + "mlp.down_proj")
    ours["norm.weight"] = take("norm")
    if not shape.tied:
        ours["head.weight"] = take("lm_head")
    assert not parameters, f"without a counterpart: {list(parameters)}"
    return ours


class PlainLlama:
    """The decoder in the fewest lines of plain PyTorch: in fp64 it is the truth, in bf16 what a plain program achieves.

    In bf16: weight copies, activations and the inputs of products bf16; norms, RoPE and the loss fp32 inside: the table of docs/numerics.md.
    """

    def __init__(self, shape, weights, compute):
        self.shape, self.compute = shape, compute
        self.wide = torch.float64 if compute == torch.float64 else torch.float32
        # Gains of norms stay wide.
        self.weights = {name: tensor.detach().to(self.wide if tensor.dim() == 1 else compute).requires_grad_()
                        for name, tensor in weights.items()}

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
