"""The precision table (docs/numerics.md): 64 micro-batches in bf16, accumulated, against one large batch in fp64.

The bound is what a plain PyTorch program of the same precision achieves (PlainLlama of llamas.py: bf16 weights and activations, gradients added up
in fp32): for the gradients and for the losses, ours may be 1.5 times as far from fp64 as that. Gradients accumulated in bf16 are farther.
"""

import sys

try:
    import torch
    from driver import Batch, Shape, run_driver
    from llamas import PlainLlama
except ModuleNotFoundError as missing:
    print(f"skipped: {missing}")
    sys.exit(4)

DRIVER = sys.argv[1]
MICRO_BATCHES = 64
FACTOR = 1.5
SHAPE = Shape(vocab=256, width=64, inner=128, layers=3, heads=4, kv_heads=2, head_dim=16, context=32)


def starting_weights():
    """As a training starts, rounded to bf16: every precision starts from the same numbers."""
    generator = torch.Generator().manual_seed(1)
    shapes = {"embedding.weight": (SHAPE.vocab, SHAPE.width), "norm.weight": (SHAPE.width,)}
    for i in range(SHAPE.layers):
        block = f"blocks.{i}."
        shapes[block + "attention.norm.weight"] = shapes[block + "feed_forward.norm.weight"] = (SHAPE.width,)
        shapes[block + "attention.qkv.weight"] = ((SHAPE.heads + 2 * SHAPE.kv_heads) * SHAPE.head_dim, SHAPE.width)
        shapes[block + "attention.output.weight"] = (SHAPE.width, SHAPE.heads * SHAPE.head_dim)
        shapes[block + "feed_forward.gate_up.weight"] = (2 * SHAPE.inner, SHAPE.width)
        shapes[block + "feed_forward.down.weight"] = (SHAPE.width, SHAPE.inner)
    return {name: (torch.ones(shape) if len(shape) == 1 else 0.05 * torch.randn(shape, generator=generator)).bfloat16().double()
            for name, shape in shapes.items()}


def batch_like_text():
    """Some tokens are frequent, as in text: gradients of different micro-batches then have a common part, and their sum grows."""
    generator = torch.Generator().manual_seed(2)
    frequency = 1.0 / torch.arange(1, SHAPE.vocab + 1)
    count = MICRO_BATCHES * (SHAPE.context + 1)
    stream = torch.multinomial(frequency, count, replacement=True, generator=generator).view(MICRO_BATCHES, -1)
    return Batch(stream[:, :-1].reshape(-1), stream[:, 1:].reshape(-1), [SHAPE.context] * MICRO_BATCHES, MICRO_BATCHES)


def relative(found, exact):
    return ((found.double() - exact).norm() / exact.norm()).item()


def gradient_errors(result, exact):
    return {name: relative(result.gradients[name], gradient) for name, gradient in exact.gradients.items()}


def loss_errors(result, exact):
    """Of the whole batch, and root mean square over its rows (nats a token)."""
    rows = (result.loss_by_row.double() - exact.loss_by_row).square().mean().sqrt().item()
    return abs(result.loss - exact.loss), rows


def trespasses(result, plain, exact):
    """The tensors whose gradient is worse than the bound."""
    allowed = gradient_errors(plain, exact)
    return [name for name, error in gradient_errors(result, exact).items() if error > FACTOR * allowed[name]]


def check_types(types, compute):
    """Masters, moments and the gradient buffer fp32; weight copies of the compute type; gains of norms fp32."""
    assert types["master"] == types["gradient"] == "Float", types
    moments = [name for name in types if name.startswith("state.exp_avg")]
    parameters = [name for name in types if name.startswith("parameter.")]
    assert len(moments) == 2 * len(parameters) > 0
    assert all(types[name] == "Float" for name in moments), types
    for name in parameters:
        assert types[name] == ("Float" if "norm" in name else compute), (name, types[name])


def main():
    torch.set_num_threads(1)
    weights, batch = starting_weights(), batch_like_text()
    exact = PlainLlama(SHAPE, weights, torch.float64).run(batch)
    plain = PlainLlama(SHAPE, weights, torch.bfloat16).run(batch)
    worst = max(gradient_errors(plain, exact).values())
    plain_loss, plain_rows = loss_errors(plain, exact)
    print(f"plain PyTorch in bf16: gradients {worst:.1e}, loss {plain_loss:.1e}, rows {plain_rows:.1e}")
    for kernels in ("auto", "reference"):
        ours = run_driver(DRIVER, SHAPE, weights, batch, f"kernels={kernels}", precision="bf16")
        loss, rows = loss_errors(ours, exact)
        print(f"ours, kernels {kernels}: gradients {max(gradient_errors(ours, exact).values()):.1e}, loss {loss:.1e}, rows {rows:.1e}")
        assert not trespasses(ours, plain, exact), (kernels, gradient_errors(ours, exact), gradient_errors(plain, exact))
        # One number may be right by chance, so the whole batch's loss is held against what its rows miss.
        assert rows <= FACTOR * plain_rows and loss <= FACTOR * plain_rows, (kernels, loss, rows, plain_rows)
        check_types(ours.types, "BFloat16")

    rounded = run_driver(DRIVER, SHAPE, weights, batch, "--round-gradients", precision="bf16")
    found = trespasses(rounded, plain, exact)
    print(f"accumulated in bf16: gradients {max(gradient_errors(rounded, exact).values()):.1e}, "
          f"{len(found)} of {len(exact.gradients)} tensors beyond the bound")
    assert len(found) == len(exact.gradients), "gradients accumulated in bf16 would pass"

    # In fp32 the same 64 micro-batches are the large batch, to fp32's precision.
    wide = run_driver(DRIVER, SHAPE, weights, batch)
    print(f"ours in fp32: gradients {max(gradient_errors(wide, exact).values()):.1e}, loss {loss_errors(wide, exact)[0]:.1e}")
    single = PlainLlama(SHAPE, weights, torch.float32).run(batch)
    assert not trespasses(wide, single, exact), (gradient_errors(wide, exact), gradient_errors(single, exact))
    check_types(wide.types, "Float")


main()
