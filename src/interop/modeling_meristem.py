"""A model of Meristem for transformers (trust_remote_code): a stack of blocks that tokens pass through as a depth plan says.

    AutoModelForCausalLM.from_pretrained(FOLDER, trust_remote_code=True)
    AutoModelForCausalLM.from_pretrained(FOLDER, trust_remote_code=True, repeats=8)                        # its one loop runs eight times
    AutoModelForCausalLM.from_pretrained(FOLDER, trust_remote_code=True, depth_plan="0-9; (10-13)x2; 14-23")

Semicolons will do for commas, which lm-evaluation-harness takes for itself: --model_args pretrained=FOLDER,trust_remote_code=True,repeats=8.
Shapes: B sequences of T tokens, S of them with what is cached, width D, H heads over G key/value heads of K; h is the residual stream [B, T, D].
"""

import copy
import math
import re

import torch
import torch.nn.functional as F
from torch import nn
from transformers import DynamicCache, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast


class MeristemConfig(PretrainedConfig):
    """`depth_plan`: the block calls, such as "0-3, (4-7)x4, 8-11". `repeats`: of the plan's one loop, in place of the count in its text."""

    model_type = "meristem"
    keys_to_ignore_at_inference = ["past_key_values"]

    def __init__(self, vocab_size=256, hidden_size=64, num_blocks=2, depth_plan="0-1", repeats=None, num_attention_heads=4, num_key_value_heads=4,
                 head_dim=16, rope_base=10000.0, rope_scaling_by=None, no_rope_every=0, window=0, full_every=0, score_cap=0, logit_cap=0, embedding_scale=1, qk_norm=False, qk_norm_over="heads", qkv_bias=False, norm="pre", rms_norm_eps=1e-5, injection="none", feed_forward=None,
                 depth_attention=None, mixers=None, options=None, max_position_embeddings=2048, **rest):
        self.vocab_size, self.hidden_size, self.num_blocks, self.depth_plan, self.repeats = vocab_size, hidden_size, num_blocks, depth_plan, repeats
        self.num_attention_heads, self.num_key_value_heads, self.head_dim = num_attention_heads, num_key_value_heads, head_dim
        self.rope_base, self.rope_scaling_by, self.no_rope_every, self.window, self.full_every = rope_base, rope_scaling_by, no_rope_every, window, full_every
        self.score_cap, self.logit_cap, self.embedding_scale = score_cap, logit_cap, embedding_scale
        self.qk_norm, self.qk_norm_over, self.qkv_bias, self.injection = qk_norm, qk_norm_over, qkv_bias, injection
        self.norm, self.rms_norm_eps = norm, rms_norm_eps
        self.feed_forward = feed_forward or {"kind": "swiglu", "inner": 4 * hidden_size}
        self.depth_attention, self.max_position_embeddings = depth_attention, max_position_embeddings
        self.mixers = mixers or [["attention", "Attention"], ["feed_forward", "FeedForward"]]  # of a block, in order: name and class
        self.options = options or {}  # an architecture's own
        self.num_hidden_layers = num_blocks
        super().__init__(**rest)


class DepthPlan:
    """calls[r] is the block of call r. `loop`: (start, length, repeats) in calls, where the text has exactly one group (…)xN."""

    def __init__(self, text, repeats=None):
        self.text, self.groups = text, []
        self.rest = re.findall(r"\d+|[-,()x]|\S", text.replace(";", ","))
        self.calls = self._sequence(0)
        if self.rest:
            self._fail(f"found {self.rest[0]!r}")
        self.loop = self.groups[0] if len(self.groups) == 1 else None
        if repeats is not None:
            self._repeat(repeats)

    def _repeat(self, repeats):
        """Short loops are not always written as a group: "0, (1)x2, 2" is the same as "0-1, 1-2"."""
        self.loop = self.loop or (None if self.groups else longest_loop(self.calls))
        if self.loop is None or repeats < 1:
            self._fail(f"repeats: found {repeats}; takes a plan with one loop, and at least 1")
        start, length, written = self.loop
        end = start + length * written
        self.calls = self.calls[:start] + self.calls[start : start + length] * repeats + self.calls[end:]
        self.loop = start, length, repeats

    def _fail(self, what):
        raise ValueError(f"depth plan {self.text!r}: {what}")

    def _take(self, token):
        found = bool(self.rest) and self.rest[0] == token
        if found:
            self.rest.pop(0)
        return found

    def _number(self):
        if not self.rest or not self.rest[0].isdigit():
            self._fail("expected a number")
        return int(self.rest.pop(0))

    def _sequence(self, begin):
        calls = self._item(begin)
        while self._take(","):
            calls += self._item(begin + len(calls))
        return calls

    def _item(self, begin):
        if self._take("("):
            body = self._sequence(begin)
            if not (self._take(")") and self._take("x")):
                self._fail("expected ')x' and the number of repeats")
            repeats = self._number()
            self.groups.append((begin, len(body), repeats))
            return body * repeats
        first = self._number()
        last = self._number() if self._take("-") else first
        return list(range(first, last + 1)) if first <= last else list(range(first, last - 1, -1))


def longest_loop(calls):
    """(start, length, repeats) of the stretch that repeats itself over the most calls, the shortest body of those; None where none does."""
    best = None
    for length in range(1, len(calls) // 2 + 1):
        for start in range(len(calls) - 2 * length + 1):
            body, repeats = calls[start : start + length], 1
            while calls[start + length * repeats : start + length * (repeats + 1)] == body:
                repeats += 1
            if repeats > 1 and (best is None or length * repeats > best[1] * best[2]):
                best = start, length, repeats
    return best


class RmsNorm(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x):
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps) * self.weight.float()).to(x.dtype)


def input_norm(config):
    """What a mixer reads of the residual stream: normed, unless the block norms what the mixer returns instead."""
    return nn.Identity() if config.norm == "post" else RmsNorm(config.hidden_size, config.rms_norm_eps)


def linear(inputs, outputs, bias=False):
    return nn.Linear(inputs, outputs, bias=bias)


def swiglu(gate_up, kind="swiglu"):
    gate, up = gate_up.chunk(2, -1)
    return (F.gelu(gate, approximate="tanh") if kind == "geglu" else F.silu(gate)) * up


def capped(x, cap):
    return (x / cap).tanh() * cap if cap else x


def turned(x, positions, base, scaling=None):
    """RoPE in half-split pairs on the last axis. `positions` broadcasts over the axes before it. `scaling`: as Llama 3.1 stretches it."""
    half = x.shape[-1] // 2
    frequency = base ** (-torch.arange(half, dtype=torch.float64, device=x.device) / half)
    if scaling:
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        kept = ((frequency * scaling["original_max_position_embeddings"] / (2 * math.pi) - low) / (high - low)).clamp(0, 1)
        frequency = frequency * ((1 - kept) / scaling["factor"] + kept)
    angle = positions[..., None].to(torch.float64) * frequency
    cos, sin, a, b = angle.cos().float(), angle.sin().float(), x[..., :half].float(), x[..., half:].float()
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1).to(x.dtype)


def attend_over_depth(q, keys, values):
    """Of each token over its own entries. q and each of the entries: [B, T, heads, K]."""
    score = torch.stack([(q * key).sum(-1) for key in keys], -1).float() / math.sqrt(q.shape[-1])
    weight = score.softmax(-1).to(q.dtype)
    return sum(weight[..., i, None] * value for i, value in enumerate(values))


class DecodeCache(DynamicCache):
    """What is kept of the sequences between tokens: keys and values by call, and what mixers keep in their place (`states`, [B, …] each)."""

    def __init__(self):
        super().__init__()
        self.states, self.tokens = {}, 0

    def get_seq_length(self, layer_idx=0):
        return self.tokens

    def reorder_cache(self, beam_idx):
        super().reorder_cache(beam_idx)
        self.states = {call: state.index_select(0, beam_idx.to(state.device)) for call, state in self.states.items()}


class Call:
    """What a call of a block knows beside its input."""

    def __init__(self, positions, real, masks, cache):
        self.positions, self.real = positions, real  # [B, T]; bool [B, T], false where a token is padding
        self.masks, self.cache = masks, cache        # without and with the window, bool [B, 1, T, S], true where a token is seen; DecodeCache or None
        self.depth = self.block = 0      # place in the plan, from 0; the block that is called
        self.states, self.inputs = [], []  # h as each call found it, and with what a loop injects
        self.keys, self.values = [], []  # depth attention's, of the calls so far


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim, self.base = config.num_attention_heads, config.num_key_value_heads, config.head_dim, config.rope_base
        depth = config.depth_attention or {}
        self.over_depth = depth.get("kind") if depth.get("kind") in ("joint", "values") else None
        self.scaling, self.no_rope_every = config.rope_scaling_by, config.no_rope_every
        self.window, self.full_every, self.score_cap = config.window, config.full_every, config.score_cap
        self.norm, self.norms_all_heads = input_norm(config), config.qk_norm_over == "all"
        self.qkv = linear(config.hidden_size, (self.heads + 2 * self.kv_heads) * self.head_dim, config.qkv_bias)
        if config.qk_norm:
            normed = (self.heads, self.kv_heads) if self.norms_all_heads else (1, 1)
            self.q_norm, self.k_norm = (RmsNorm(heads * self.head_dim, config.rms_norm_eps) for heads in normed)
        self.output = linear(self.heads * self.head_dim, config.hidden_size)

    def forward(self, h, call):
        H, G, K = self.heads, self.kv_heads, self.head_dim
        q, k, v = self.qkv(self.norm(h)).split([H * K, G * K, G * K], -1)
        if self.norms_all_heads:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = (x.unflatten(-1, (-1, K)) for x in (q, k, v))  # [B, T, heads, K]
        if hasattr(self, "q_norm") and not self.norms_all_heads:
            q, k = self.q_norm(q), self.k_norm(k)
        if not self.no_rope_every or (call.block + 1) % self.no_rope_every:
            q, k = (turned(x, call.positions[..., None], self.base, self.scaling) for x in (q, k))
        if self.over_depth == "values":
            call.keys.append(k)
            v = attend_over_depth(q.unflatten(2, (G, H // G)).mean(3), call.keys, [*call.values, v])
            call.values.append(v)
        attended = self._over_sequence(q, k, v, call)
        if self.over_depth == "joint":
            call.keys.append(k)
            call.values.append(v)
        return self.output(attended.flatten(2))

    def _over_sequence(self, q, k, v, call):
        """[B, T, H, K]. With joint depth attention one softmax runs over the sequence and over the token's own earlier calls."""
        wide = lambda x, axis: x.repeat_interleave(self.heads // self.kv_heads, axis)  # noqa: E731
        all_k, all_v = k.transpose(1, 2), v.transpose(1, 2)
        if call.cache is not None:
            all_k, all_v = call.cache.update(all_k, all_v, call.depth)
        all_k, all_v, q = wide(all_k, 1), wide(all_v, 1), q.transpose(1, 2)
        mask = call.masks[bool(self.window) and not (self.full_every and (call.block + 1) % self.full_every == 0)]
        if self.score_cap:
            score = capped((q @ all_k.transpose(2, 3)) / math.sqrt(self.head_dim), self.score_cap).masked_fill(~mask, torch.finfo(q.dtype).min)
            return (score.float().softmax(-1).to(q.dtype) @ all_v).transpose(1, 2)
        if self.over_depth != "joint" or not call.keys:
            return F.scaled_dot_product_attention(q, all_k, all_v, attn_mask=mask).transpose(1, 2)
        score = (q @ all_k.transpose(2, 3)).masked_fill(~mask, torch.finfo(q.dtype).min)
        own_k, own_v = (torch.stack([wide(x, 2).transpose(1, 2) for x in entries], -2) for entries in (call.keys, call.values))  # [B, H, T, calls, K]
        over_depth = (own_k @ q.unsqueeze(-1)).squeeze(-1)
        weight = (torch.cat([score, over_depth], -1).float() / math.sqrt(self.head_dim)).softmax(-1).to(q.dtype)
        in_sequence, in_depth = weight.split([score.shape[-1], over_depth.shape[-1]], -1)
        return (in_sequence @ all_v + (in_depth.unsqueeze(-2) @ own_v).squeeze(-2)).transpose(1, 2)


class DepthAttention(nn.Module):
    """Of kind separate: a mixer of its own, with a key and a value for each state that the token was in."""

    def __init__(self, config):
        super().__init__()
        width, self.options, self.base = config.hidden_size, config.depth_attention, config.rope_base
        self.norm, self.key_norm = input_norm(config), input_norm(config)
        self.query, self.key_value, self.output = linear(width, width), linear(width, 2 * width), linear(width, width)

    def _at(self, x, depth):
        x = x.unflatten(-1, (self.options["heads"], -1))
        return turned(x, torch.tensor(depth, device=x.device), self.base) if self.options["position"] == "rope" else x

    def forward(self, h, call):
        source = call.states[-1]
        if self.options["keys"] == "updates" and len(call.states) > 1:
            source = source - call.inputs[-2]
        key, value = self.key_value(self.key_norm(source)).chunk(2, -1)
        call.keys.append(self._at(key, call.depth))
        call.values.append(value.unflatten(-1, (self.options["heads"], -1)))
        q = self._at(self.query(self.norm(h)), call.depth + 1)
        return self.output(attend_over_depth(q, call.keys, call.values).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, config):
        super().__init__()
        width, inner = config.hidden_size, config.feed_forward["inner"]
        self.norm, self.kind = input_norm(config), config.feed_forward["kind"]
        self.gate_up, self.down = linear(width, 2 * inner), linear(inner, width)

    def forward(self, h, call):
        return self.down(swiglu(self.gate_up(self.norm(h)), self.kind))


class Experts(nn.Module):
    """The router works in fp32 and knows the depth of the call."""

    def __init__(self, config):
        super().__init__()
        width, options = config.hidden_size, config.feed_forward
        count, inner, shared, self.router_dim, self.active = (options[key] for key in ("count", "inner", "shared", "router_dim", "active"))
        self.norm, self.router = input_norm(config), linear(width, self.router_dim)
        self.router_keys, self.balance_bias = nn.Parameter(torch.empty(count, self.router_dim)), nn.Parameter(torch.zeros(count))
        self.gate_up, self.down = nn.Parameter(torch.empty(count, 2 * inner, width)), nn.Parameter(torch.empty(count, width, inner))
        if shared:
            self.shared_gate_up, self.shared_down = linear(width, 2 * shared * inner), linear(shared * inner, width)

    def _encoding(self, depth, device):
        angle = depth / 10000 ** (torch.arange(0, self.router_dim, 2, dtype=torch.float64, device=device) / self.router_dim)
        return torch.stack([angle.sin(), angle.cos()], -1).flatten().float()

    def forward(self, h, call):
        u = self.norm(h).flatten(0, 1)  # [N, D]
        q = F.linear(u.float(), self.router.weight.float()) + self._encoding(call.depth + 1, u.device)
        x = F.linear(q, self.router_keys.float())
        chosen = (x + self.balance_bias.float()).topk(self.active, -1).indices
        weight = x.gather(-1, chosen).sigmoid()
        weight = weight / weight.sum(-1, keepdim=True).clamp_min(1e-9)
        out = torch.zeros_like(u)
        for expert in chosen.unique().tolist():
            token, slot = (chosen == expert).nonzero(as_tuple=True)
            y = F.linear(swiglu(F.linear(u[token], self.gate_up[expert])), self.down[expert])
            out.index_add_(0, token, y * weight[token, slot, None].to(y.dtype))
        if hasattr(self, "shared_down"):
            out = out + self.shared_down(swiglu(self.shared_gate_up(u)))
        return out.view_as(h)


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.mixers = [name for name, _ in config.mixers]
        for name, kind in config.mixers:
            self.add_module(name, globals()[kind](config))
        self.normed = {"pre": None, "post": "output", "both": "output", "sandwich": "sum"}[config.norm]  # what the block norms of each mixer
        for name in self.mixers if self.normed else ():
            self.add_module(f"{name}_{self.normed}_norm", RmsNorm(config.hidden_size, config.rms_norm_eps))

    def forward(self, h, call):
        for name in self.mixers:
            update = getattr(self, name)(h, call)
            if self.normed == "output":
                update = getattr(self, f"{name}_output_norm")(update)
            h = h + update
            if self.normed == "sum":
                h = getattr(self, f"{name}_sum_norm")(h)
        return h


class MeristemForCausalLM(PreTrainedModel, GenerationMixin):
    config_class = MeristemConfig
    _no_split_modules = ["Block"]
    _supports_sdpa = True
    supports_gradient_checkpointing = True

    def __init__(self, config):
        super().__init__(config)
        self.plan, self.gradient_checkpointing = DepthPlan(config.depth_plan, config.repeats), False
        if max(self.plan.calls) >= config.num_blocks:
            raise ValueError(f"depth plan {config.depth_plan!r}: calls block {max(self.plan.calls)}; there are {config.num_blocks}")
        if config.injection != "none" and self.plan.loop is None:
            raise ValueError(f"depth plan {config.depth_plan!r}: this model injects into its loop; write that loop as one group, such as (0-3)x2")
        config.num_hidden_layers = len(self.plan.calls)  # each call has its own keys and values in the cache
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_blocks))
        self.norm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        if not config.tie_word_embeddings:
            self.head = linear(config.hidden_size, config.vocab_size)
        if config.injection == "concat":
            self.injection = linear(2 * config.hidden_size, config.hidden_size)
        self.post_init()

    @classmethod
    def _supports_default_dynamic_cache(cls):
        return False  # forward makes a DecodeCache

    def get_input_embeddings(self):
        return self.embedding

    def get_output_embeddings(self):
        return None if self.config.tie_word_embeddings else self.head

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, inputs_embeds=None, labels=None, use_cache=None,
                logits_to_keep=0, **_):
        h = self.embedding(input_ids) if inputs_embeds is None else inputs_embeds
        h = h * self.config.embedding_scale if self.config.embedding_scale != 1 else h
        if use_cache and past_key_values is None and not (self.gradient_checkpointing and self.training):
            past_key_values = DecodeCache()
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        h = self.norm(self._run(h, Call(*self._places(h, attention_mask, position_ids, past), past_key_values)))
        if past_key_values is not None:
            past_key_values.tokens = past + h.shape[1]
        h = h[:, -logits_to_keep:] if isinstance(logits_to_keep, int) else h[:, logits_to_keep]
        logits = capped(F.linear(h, self.embedding.weight if self.config.tie_word_embeddings else self.head.weight), self.config.logit_cap)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=-100)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=past_key_values)

    def _run(self, h, call):
        start, length, repeats = self.plan.loop or (0, 0, 0)
        for call.depth, block in enumerate(self.plan.calls):
            call.states.append(h)
            into_loop = call.depth - start
            if self.config.injection != "none" and 0 <= into_loop < length * repeats and into_loop % length == 0:
                first_input = h if into_loop == 0 else first_input
                if self.config.injection == "concat":
                    h = self.injection(torch.cat([h, first_input], -1))
                elif into_loop > 0:
                    h = h + first_input
            call.inputs.append(h)
            call.block = block
            h = self._again(block, h, call) if self.gradient_checkpointing and self.training else self.blocks[block](h, call)
        return h

    def _again(self, block, h, call):
        """Gradient checkpointing: backward runs the call a second time. It is a function of tensors, so that it does not matter which time."""
        kept = len(call.states), len(call.inputs), len(call.keys), len(call.values)

        def run(h, *memory):
            own, rest = copy.copy(call), iter(memory)
            own.depth, own.block = depth, block
            own.states, own.inputs, own.keys, own.values = ([next(rest) for _ in range(count)] for count in kept)
            return self.blocks[block](h, own), *own.keys[kept[2] :], *own.values[kept[3] :]

        depth = call.depth
        h, *added = self._gradient_checkpointing_func(run, h, *call.states, *call.inputs, *call.keys, *call.values)
        call.keys += added[: len(added) // 2]
        call.values += added[len(added) // 2 :]
        return h

    def _places(self, h, attention_mask, position_ids, past):
        """Positions [B, T], which tokens count [B, T], and which each one sees [B, 1, T, S], without and with the window. Padding, 0 in the mask [B, S], is neither counted
        nor seen."""
        B, T, S = h.shape[0], h.shape[1], past + h.shape[1]
        real = torch.ones(B, T, dtype=torch.bool, device=h.device) if attention_mask is None else attention_mask[:, past:S].bool()
        seen = torch.ones(T, S, dtype=torch.bool, device=h.device).tril(past)
        masks = [seen, seen.triu(past - self.config.window + 1)] if self.config.window else [seen]
        masks = [mask[None, None].expand(B, 1, T, S) for mask in masks]
        if attention_mask is not None:
            itself = torch.eye(T, S, dtype=torch.bool, device=h.device).roll(past, 1)  # a softmax over nothing is no number
            masks = [mask & attention_mask[:, None, None, :S].bool() | itself for mask in masks]
        if position_ids is None and attention_mask is not None:
            position_ids = (attention_mask[:, :S].long().cumsum(-1) - 1).clamp_min(0)[:, past:]
        if position_ids is None:
            position_ids = torch.arange(past, S, device=h.device)[None]
        return position_ids.expand(B, T), real, masks
