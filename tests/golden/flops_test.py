"""`plan`'s FLOPs are those that torch.utils.flop_counter counts on the transformers twin, and its parameters are the twin's.

Like with like: PyTorch's counter takes the products of attention in full, `plan` counts causal attention half (docs/numerics.md), so the
other half is added to plan's number before it is compared. The counter also sees RoPE's outer product, `plan` does not: far below 1 %.
The models are on the meta device: no storage, no arithmetic.
"""

import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
import program  # noqa: E402

try:
    import torch
    import transformers  # noqa: F401
    from torch.utils.flop_counter import FlopCounterMode
    from driver import Shape, run_config
    from llamas import make_twin
except ModuleNotFoundError as missing:
    print(f"skipped: {missing}")
    sys.exit(4)

PROGRAM = sys.argv[1]

SHAPES = {
    "tiny, grouped queries": Shape(),
    "long context: mostly attention": Shape(context=1024),
    "heads wider than the model, own head": Shape(vocab=512, width=64, inner=96, heads=8, kv_heads=4, head_dim=32, context=128, tied=False),
    "one key head, narrow feed-forward": Shape(vocab=1000, width=128, inner=64, layers=5, heads=4, kv_heads=1, head_dim=64, context=256),
    "360M": Shape(vocab=49152, width=960, inner=2560, layers=32, heads=15, kv_heads=5, head_dim=64, context=2048),
    "1.7B": Shape(vocab=49152, width=2048, inner=8192, layers=24, heads=32, kv_heads=32, head_dim=64, context=2048),
}
EXACT_PARAMETERS = {"360M": 361_821_120, "1.7B": 1_711_376_384}


def counted(model, shape):
    """(forward, forward and backward) per token, attention in full."""
    length = shape.context
    tokens = torch.zeros((1, length), dtype=torch.long, device="meta")
    # Mask and positions given: what transformers would otherwise derive needs values.
    mask = torch.zeros((1, 1, length, length), device="meta")

    def forward():
        return model(tokens, attention_mask=mask, position_ids=tokens).logits

    with FlopCounterMode(display=False) as counter:
        forward()
    once = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        forward().sum().backward()
    return once / length, counter.get_total_flops() / length


def planned(shape):
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as config:
        config.write(run_config(shape))
        config.flush()
        code, out, err = program.run(PROGRAM, "plan", config.name, "--json")
        assert code == 0, err
        return json.loads(out)


def agrees(ours, theirs):
    return abs(ours / theirs - 1) < 0.01


for title, shape in SHAPES.items():
    model, plan = make_twin(shape, "meta"), planned(shape)
    forward, training = counted(model, shape)
    flops = plan["flops_per_token"]
    half = flops["attention_scores"]
    print(f"{title}: forward {(flops['forward'] + half) / forward - 1:+.2e}, training {(flops['train'] + 3 * half) / training - 1:+.2e}")
    assert agrees(flops["forward"] + half, forward), (title, flops, forward)
    assert agrees(flops["train"] + 3 * half, training), (title, flops, training)
    assert plan["parameters"]["total"] == model.num_parameters() == EXACT_PARAMETERS.get(title, model.num_parameters()), title
    # It can fail: attention counted half against in full, or a projection more or less, is seen where it matters.
    if title.startswith("long context"):
        assert not agrees(flops["forward"], forward), "half against full went unnoticed"
    one_projection = 2 * shape.width * shape.heads * shape.head_dim
    assert not agrees(flops["forward"] + half + shape.layers * one_projection, forward), f"{title}: one projection too many went unnoticed"
