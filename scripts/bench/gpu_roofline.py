#!/usr/bin/env python3
"""What a GPU should take: bytes over its memory's bandwidth, FLOPs over the rate of the unit that does them, and launches. The larger of the first
two, and the launches, are the estimate that stands beside each measurement, so that the first one says at once what is off.

  scripts/bench/gpu_roofline.py                 the tables of docs/results/gpu.md, for H200, H100 and A100
  scripts/bench/gpu_roofline.py --publish       writes them into that page, between its marker lines

Rates are data sheets' (bf16 dense, SXM parts) times the share that good code reaches of them. Attention's are what our kernels should reach: they
multiply by mma.sync, which on Hopper does about six tenths of what wgmma does. None of this was measured.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BEGIN, END = "<!-- estimates: begin -->", "<!-- estimates: end -->"
COPY_SHARE, PRODUCT_SHARE = 0.90, 0.75  # of bandwidth by a large copy; of the peak by large matrix products
LAUNCH, REPLAYED = 4e-6, 1.5e-6         # seconds a launch costs where the host is slower than the device; in a replayed graph


@dataclass(frozen=True)
class Device:
    name: str
    flops: float       # bf16, a second
    bandwidth: float   # bytes a second
    attention: dict    # (head dim, pass): FLOP/s

    def copy(self):
        return COPY_SHARE * self.bandwidth

    def products(self):
        return PRODUCT_SHARE * self.flops


HOPPER = {(64, "forward"): 250e12, (128, "forward"): 280e12, (64, "backward"): 140e12, (128, "backward"): 150e12}
DEVICES = (Device("H200", 989e12, 4.8e12, HOPPER), Device("H100", 989e12, 3.35e12, HOPPER),
           Device("A100", 312e12, 2.04e12, {(64, "forward"): 150e12, (128, "forward"): 175e12, (64, "backward"): 85e12, (128, "backward"): 95e12}))


def device_of(name):
    """By the driver's name; None for one that is not in the table."""
    return next((device for device in DEVICES if device.name in (name or "")), None)


def seconds(device, flops, rate, moved, launches, launch=LAUNCH):
    return max(flops / rate if flops else 0, moved / device.copy()) + launches * launch


# Kernels that an operator of ours launches.
LAUNCHES = {"attention_backward": 3, "attention_window_backward": 3, "attention_packed_backward": 3, "attention_joint_forward": 2, "attention_joint_backward": 4,
            "rms_norm_backward": 2, "cross_entropy": 30}


def operator_seconds(line):
    """Of a line of `meristem-bench operators`, which says its "bytes" and "flops", on its "device". None where they are unknown."""
    device = device_of(line.get("device"))
    if device is None or not (line.get("bytes") or line.get("flops")):
        return None
    subject = line["subject"]
    rate = device.products()
    if subject.startswith("attention"):
        rate = device.attention.get((line["head_dim"], "backward" if subject.endswith("backward") else "forward"), rate)
    # Between events on the device, a launch costs what the device takes to begin it.
    return seconds(device, line.get("flops", 0), rate, line.get("bytes", 0), LAUNCHES.get(subject, 1), REPLAYED)


def step_work(shape):
    """(FLOPs of products, FLOPs of attention's products forward, backward, bytes beside the products, launches) of an update of one micro-batch."""
    tokens, width, inner = shape["batch"] * shape["sequence"], shape["width"], shape["inner"]
    heads, kv_heads, layers, vocab = shape["heads"], shape["kv-heads"], shape["layers"], shape["vocab"]
    dim = width // heads
    weights = layers * (width * (heads + 2 * kv_heads) * dim + heads * dim * width + 3 * width * inner) + vocab * width
    pairs = shape["batch"] * heads * shape["sequence"] ** 2 / 2
    # bf16 a layer, forward and backward: two norms and residual additions, RoPE, SwiGLU; and per parameter the update and, inside the products, the gradients' sum.
    a_layer = tokens * (2 * (4 + 6 + 6) * width + 8 * (heads + kv_heads) * dim + 16 * inner)
    moved = layers * a_layer + 4 * tokens * vocab + (30 + 8) * weights
    return 6 * tokens * weights, layers * 4 * dim * pairs, layers * 10 * dim * pairs, moved, 32 * layers + 60


def step_seconds(shape, name, launch=REPLAYED):
    device = device_of(name)
    if device is None:
        return None
    products, forward, backward, moved, launches = step_work(shape)
    dim = shape["width"] // shape["heads"]
    rate = {which: device.attention.get((dim, which), device.attention[64, which]) for which in ("forward", "backward")}
    return products / device.products() + forward / rate["forward"] + backward / rate["backward"] + moved / device.copy() + launches * launch


def flops_of_attention(heads, head_dim, pairs, backward):
    return (10 if backward else 4) * head_dim * pairs * heads


def cases():
    """What scripts/gpu_check measures, for the page: (what, line)."""
    tokens, width = 16384, 2048
    packed = 18 * (tokens / 18) ** 2 / 2
    for dim in (64, 128):
        heads, moved = width // dim, 8 * tokens * width
        for what, subject, pairs in (("causal, 4 x 4096", "attention", 4 * 4096 ** 2 / 2), ("window of 1024, 16384", "attention_window", tokens * 1024),
                                     ("18 documents in 16384", "attention_packed", packed)):
            for which in ("forward", "backward"):
                yield f"attention {which}, D{dim}, {what}", {"subject": f"{subject}_{which}", "head_dim": dim, "bytes": moved * (1 if which == "forward" else 2),
                                                             "flops": flops_of_attention(heads, dim, pairs, which == "backward")}
    element = tokens * width
    for what, subject, moved in (("RMSNorm forward, 16384 x 2048", "rms_norm_forward", 4 * element), ("RMSNorm backward", "rms_norm_backward", 6 * element),
                                 ("RoPE, 16384 x 32 x 64", "rope_forward", 4 * element), ("SwiGLU forward, 16384 x 5504", "swiglu_forward", 6 * tokens * 5504),
                                 ("SwiGLU backward", "swiglu_backward", 10 * tokens * 5504), ("AdamW, 130M parameters", "adamw", 30 * (124 << 20)),
                                 ("depth attention forward, 16 entries of 16384 x 1024", "depth_attention_forward", 34 * 2 * tokens * 1024),
                                 ("depth attention backward", "depth_attention_backward", 67 * 2 * tokens * 1024)):
        yield what, {"subject": subject, "bytes": moved}
    yield "cross-entropy, 16384 x 2048 x 50304", {"subject": "cross_entropy", "bytes": 12 * tokens * 50304, "flops": 6 * tokens * 2048 * 50304}


def time_text(value):
    return f"{1e6 * value:,.0f} µs" if value < 1e-3 else f"{1e3 * value:,.2f} ms"


def tables():
    import gpu_parts

    names = [device.name for device in DEVICES]
    head = ["", f"| to be measured | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    lines = head[1:] + [f"| {what} | " + " | ".join(time_text(operator_seconds({**line, "device": name})) for name in names) + " |" for what, line in cases()]
    lines += ["", f"| an update, as a captured graph | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for name, (shape, *_) in gpu_parts.STEPS.items():
        tokens = shape["batch"] * shape["sequence"]
        cells = []
        for device in DEVICES:
            taken = step_seconds(shape, device.name)
            products, forward, backward, *_ = step_work(shape)
            mfu = (products + forward + 2 * forward) / taken / device.flops
            cells.append(f"{1e3 * taken:.1f} ms, {tokens / taken / 1e3:,.0f}k tokens/s, MFU {100 * mfu:.0f} %")
        lines.append(f"| {name.removeprefix('step_')}, {shape['batch']} x {shape['sequence']} tokens | " + " | ".join(cells) + " |")
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--publish", action="store_true")
    arguments = parser.parse_args()
    text = "\n".join(tables())
    if arguments.publish:
        page = ROOT / "docs" / "results" / "gpu.md"
        whole = page.read_text()
        page.write_text(whole[:whole.index(BEGIN)] + BEGIN + "\n" + text + "\n" + whole[whole.index(END):])
    else:
        print(text)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    main()
