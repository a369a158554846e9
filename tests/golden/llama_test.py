"""A decoder is transformers' Llama: the same weights, passed through safetensors, give the same logits and gradients in fp32.

Bounds: 1e-4 in logits and 1e-3 in gradients, as parts of the largest value of the tensor. And, sharper: we may be at most 4 times as far
from the fp64 result as transformers is, in each tensor; on these shapes that is about 1e-6.
"""

import sys

try:
    import torch
    import transformers  # noqa: F401
    from torch.nn.functional import cross_entropy
    from driver import Batch, Result, Shape, run_driver
    from llamas import PlainLlama, in_our_names, make_twin
except ModuleNotFoundError as missing:
    print(f"skipped: {missing}")
    sys.exit(4)

DRIVER = sys.argv[1]
LOGITS, GRADIENTS = 1e-4, 1e-3


def uniform_batch(shape, sequences):
    generator = torch.Generator().manual_seed(2)
    inputs, targets = torch.randint(shape.vocab, (2, sequences * shape.context), generator=generator)
    targets[5] = -1
    return Batch(inputs, targets, [shape.context] * sequences, sequences)


def packed_batch(shape):
    """Two rows of documents; the last token of a document has no target."""
    lengths = [9, 1, 14, 3, 16, 5]
    assert sum(lengths) == 2 * shape.context and sum(lengths[:3]) == shape.context
    batch = uniform_batch(shape, 2)
    batch.targets[torch.tensor(lengths).cumsum(0) - 1] = -1
    batch.lengths = lengths
    return batch


def run_twin(model, shape, batch):
    """Each document alone; logits in a row, gradients of the summed losses."""
    model.zero_grad()
    logits = []
    for inputs, targets in batch.documents():
        logits.append(model(inputs[None]).logits[0])
        cross_entropy(logits[-1], targets, ignore_index=-1, reduction="sum").backward()
    return Result(torch.cat(logits).detach(), in_our_names(model, shape, lambda parameter: parameter.grad.clone()))


def error(found, exact):
    return ((found.double() - exact.double()).abs().max() / exact.abs().max()).item()


def largest_errors(found, exact):
    """Of the logits, and of the gradients by name."""
    assert found.gradients.keys() == exact.gradients.keys()
    return error(found.logits, exact.logits), {name: error(found.gradients[name], exact.gradients[name]) for name in exact.gradients}


def agrees(ours, twin):
    logits, gradients = largest_errors(ours, twin)
    return logits < LOGITS and max(gradients.values()) < GRADIENTS


def check(title, shape, batch, micro_sequences=1):
    model = make_twin(shape)
    weights, twin = in_our_names(model, shape), run_twin(model, shape, batch)
    for kernels in ("auto", "reference"):
        ours = run_driver(DRIVER, shape, weights, batch, f"kernels={kernels}", micro_sequences=micro_sequences)
        logits, gradients = largest_errors(ours, twin)
        print(f"{title}, kernels {kernels}: logits {logits:.1e}, gradients {max(gradients.values()):.1e}")
        assert agrees(ours, twin), (title, kernels, logits, gradients)
        if shape.qk_norm or shape.olmo2:
            continue  # the plain model has none
        exact = PlainLlama(shape, weights, torch.float64).run(batch)
        (our_logits, our_gradients), (their_logits, their_gradients) = largest_errors(ours, exact), largest_errors(twin, exact)
        unit = 2.0**-23
        assert our_logits <= 4 * their_logits + unit, (title, kernels, our_logits, their_logits)
        for name, theirs in their_gradients.items():
            assert our_gradients[name] <= 4 * theirs + unit, (title, kernels, name, our_gradients[name], theirs)


def deviations_are_seen():
    """The comparison can fail: one detail of the twin at a time is changed."""
    shape = Shape()
    batch, model = packed_batch(shape), make_twin(shape)
    twin, weights = run_twin(model, shape, batch), in_our_names(model, shape)

    def with_tensor(name, change):
        return weights | {name: change(weights[name].clone())}

    head = shape.head_dim
    whole_rows = Batch(batch.inputs, batch.targets, [shape.context] * 2, 2)
    planted = {
        "another RoPE base": (Shape(theta=9000.0), weights, batch),
        "another eps": (Shape(eps=1e-3), weights, batch),
        "gate and up swapped": (shape, with_tensor("blocks.1.feed_forward.gate_up.weight", lambda w: w.roll(shape.inner, 0)), batch),
        "key heads in another order": (shape, with_tensor("blocks.2.attention.qkv.weight", lambda w: torch.cat(
            [w[:6 * head], w[7 * head:8 * head], w[6 * head:7 * head], w[8 * head:]])), batch),
        "a gain of 1": (shape, with_tensor("norm.weight", torch.ones_like), batch),
        "documents not kept apart": (shape, weights, whole_rows),
    }
    assert agrees(run_driver(DRIVER, shape, weights, batch), twin)
    for title, (other_shape, other_weights, other_batch) in planted.items():
        assert not agrees(run_driver(DRIVER, other_shape, other_weights, other_batch), twin), title
    print(f"seen: {', '.join(planted)}")


torch.set_num_threads(1)
check("grouped queries, tied head", Shape(), uniform_batch(Shape(), 3))
check("grouped queries, own head, heads wider than the model", Shape(kv_heads=3, head_dim=12, tied=False), uniform_batch(Shape(), 2),
      micro_sequences=2)
check("one key head, packed documents", Shape(kv_heads=1), packed_batch(Shape()))
check("a key head each, own head, packed documents in one micro-batch", Shape(kv_heads=6, tied=False, theta=500.0), packed_batch(Shape()),
      micro_sequences=2)
check("QK norm (Qwen3), packed documents", Shape(qk_norm=True), packed_batch(Shape()))
check("post norm, QK norm over all heads (OLMo 2), packed documents", Shape(olmo2=True, tied=False), packed_batch(Shape()))
deviations_are_seen()
