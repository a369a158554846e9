"""Muon against torch.optim.Muon and torch.optim.AdamW of the pinned PyTorch, update by update, on the same gradients.

Ours keeps queries, keys and values, gate and up, and all experts each in one tensor; here every matrix is a parameter of its own. Momenta
have to be equal to the bit. Weights differ by the rounding of a last product: the bound is a tenth of what bf16 itself costs, measured as the
distance of torch.optim.Muon from the same update with its Newton-Schulz steps in fp64.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

try:
    import torch
    from safetensors.torch import load_file, save_file
    from torch.optim import _muon
except ModuleNotFoundError as missing:
    print(f"skipped: {missing}")
    sys.exit(4)

DRIVER = sys.argv[1]
UPDATES = 6
WIDTH, INNER, HEAD_DIM = 48, 80, 8
DENSE = {"vocab_size": 97, "width": WIDTH, "blocks": 2, "tie_embeddings": False,
         "attention": {"heads": 6, "kv_heads": 2, "head_dim": HEAD_DIM, "qk_norm": True}, "feed_forward": {"inner": INNER}}
EXPERTS = {"architecture": "dreamer", "vocab_size": 97, "width": WIDTH, "blocks": 1, "depth_plan": "(0)x3", "loop": {"injection": "concat"},
           "attention": {"heads": 6, "kv_heads": 3, "head_dim": HEAD_DIM}, "depth_attention": {"kind": "separate", "heads": 2},
           "feed_forward": {"kind": "experts", "inner": 24, "count": 5, "active": 2, "shared": 2, "router_dim": 16}}
# The rows of packed matrices, by the last part of a name that has them.
PACKED = {"dense": {"attention.qkv.weight": [6 * HEAD_DIM, 2 * HEAD_DIM, 2 * HEAD_DIM], "feed_forward.gate_up.weight": [INNER, INNER]},
          "experts": {"attention.qkv.weight": [6 * HEAD_DIM, 3 * HEAD_DIM, 3 * HEAD_DIM], "depth_attention.key_value.weight": [WIDTH, WIDTH],
                      "feed_forward.gate_up": [24, 24], "feed_forward.shared_gate_up.weight": [48, 48]}}
NOT_MUON = ("embedding.weight", "head.weight", "norm.weight", "router.weight", "router_keys", "balance_bias")
NOT_DECAYED = ("embedding.weight", "norm.weight", "router_keys", "balance_bias")
ADJUST = {"moonlight": "match_rms_adamw", "original": "original"}


def matrices_of(name, tensor, packed):
    """{name of a matrix: tensor}; a parameter that Muon leaves to AdamW is itself."""
    if name.endswith(NOT_MUON):
        return {name: tensor}
    rows = next((rows for end, rows in packed.items() if name.endswith(end)), [tensor.shape[-2]])
    experts = tensor if tensor.dim() == 3 else tensor[None]
    return {f"{name}/{e}/{i}": part for e, expert in enumerate(experts) for i, part in enumerate(expert.split(rows))}


def all_matrices(tensors, packed):
    return {name: part.clone() for whole, tensor in tensors.items() for name, part in matrices_of(whole, tensor, packed).items()}


def exact_newton_schulz(gradient, coefficients, steps, eps):
    a, b, c = coefficients
    x = gradient.double()
    x = x.T if x.size(0) > x.size(1) else x
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if gradient.size(0) > gradient.size(1) else x).float()


def theirs(start, gradients, rates, optimizer, exact=False):
    """Weights and momenta after each update by PyTorch's own optimizers."""
    weights = {name: torch.nn.Parameter(tensor.clone()) for name, tensor in start.items()}
    muon, decayed, plain = {}, [], []
    for name, weight in weights.items():
        if not name.endswith(NOT_MUON):
            muon[name] = weight
        else:
            (plain if name.endswith(NOT_DECAYED) else decayed).append(weight)
    settings = optimizer["muon"]
    ratio = settings["lr"] / optimizer["lr"] if "lr" in settings else 1.0
    ours = torch.optim.Muon(muon.values(), lr=1.0, weight_decay=optimizer["weight_decay"], momentum=settings["momentum"],
                            nesterov=settings["nesterov"], ns_steps=settings["ns_steps"], adjust_lr_fn=ADJUST[settings["scale"]])
    rest = torch.optim.AdamW([{"params": decayed, "weight_decay": optimizer["weight_decay"]}, {"params": plain, "weight_decay": 0.0}],
                             lr=1.0, betas=(0.9, 0.95), eps=1e-8)
    history = []
    for n, rate in enumerate(rates):
        for name, weight in weights.items():
            weight.grad = gradients[n][name].clone()
        for group in ours.param_groups:
            group["lr"] = rate * ratio
        for group in rest.param_groups:
            group["lr"] = rate
        with mock.patch.object(_muon, "_zeropower_via_newtonschulz", exact_newton_schulz if exact else _muon._zeropower_via_newtonschulz):
            ours.step()
        rest.step()
        history.append(({name: weight.detach().clone() for name, weight in weights.items()},
                        {name: ours.state[weight]["momentum_buffer"].clone() for name, weight in muon.items()}))
    return history


def run_ours(model, optimizer, gradients, rates):
    run = {"model": model, "data": {"sequence_length": 16, "sources": {"none": {"path": "none"}}}, "batch": {"tokens": 16},
           "optimizer": optimizer}
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("run.yaml", "gradients.safetensors", "out.safetensors")]
        files[0].write_text(json.dumps(run))
        save_file({f"{n}.{name}": tensor for n, step in enumerate(gradients, 1) for name, tensor in step.items()}
                  | {"lr": torch.tensor(rates)}, files[1])
        answer = subprocess.run([DRIVER, *files], capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        assert answer.returncode == 0, answer.stderr
        return load_file(files[2])


def after(out, n):
    return {name.split(".", 1)[1]: tensor for name, tensor in out.items() if name.startswith(f"{n}.") and ".state." not in name}


def check(kind, model, settings):
    packed = PACKED[kind]
    optimizer = {"kind": "muon", "lr": 2.0 ** -9, "weight_decay": 0.125, "muon": settings}
    # Numbers that fp32 holds, so that both sides have the same learning rate.
    rates = torch.linspace(1, 0.25, UPDATES).mul(optimizer["lr"]).tolist()
    start = after(run_ours(model, optimizer, [], []), 0)
    generator = torch.Generator().manual_seed(1)
    gradients = [{name: torch.randn(tensor.shape, generator=generator) * 10.0 ** (n - 3) for name, tensor in start.items()}
                 for n in range(UPDATES)]
    for step in gradients:
        step.update({name: torch.zeros_like(tensor) for name, tensor in step.items() if name.endswith("balance_bias")})
    out = run_ours(model, optimizer, gradients, rates)
    split = [all_matrices(step, packed) for step in gradients]
    wanted, exact = (theirs(all_matrices(start, packed), split, rates, optimizer, exact=exact) for exact in (False, True))
    worst, torch_worst, matrices = 0.0, 0.0, 0
    for n, ((weights, momenta), (exact_weights, _)) in enumerate(zip(wanted, exact), 1):
        found = all_matrices(after(out, n), packed)
        assert found.keys() == weights.keys()
        state = {name.split(".state.momentum.", 1)[1]: tensor for name, tensor in out.items() if name.startswith(f"{n}.state.momentum.")}
        found_momenta = all_matrices(state, packed)
        assert found_momenta.keys() == momenta.keys(), found_momenta.keys() ^ momenta.keys()
        matrices = len(momenta)
        for name, momentum in momenta.items():
            assert torch.equal(found_momenta[name], momentum), f"update {n}, momentum of {name}"
        first = all_matrices(start, packed)
        for name, weight in weights.items():
            moved = (weight - first[name]).norm()
            if name.endswith("balance_bias"):
                assert torch.equal(found[name], first[name])
            elif name in momenta:
                error, torch_error = (found[name] - weight).norm() / moved, (exact_weights[name] - weight).norm() / moved
                worst, torch_worst = max(worst, error.item()), max(torch_worst, torch_error.item())
                assert error < torch_error / 10, f"update {n}, {name}: {error:.2g} from torch.optim.Muon, bf16 itself {torch_error:.2g}"
            else:
                error = ((found[name] - weight).norm() / moved).item()
                assert error < 1e-5, f"update {n}, {name}: {error:.2g} from torch.optim.AdamW"
    print(f"{kind}, {settings}: {matrices} matrices, {UPDATES} updates; from torch.optim.Muon {worst:.1e} of the way, bf16 costs {torch_worst:.1e}")


for kind, model in (("dense", DENSE), ("experts", EXPERTS)):
    check(kind, model, {"momentum": 0.95, "nesterov": True, "ns_steps": 5, "scale": "moonlight"})
    check(kind, model, {"momentum": 0.9, "nesterov": False, "ns_steps": 5, "scale": "original", "lr": 2.0 ** -6})
    check(kind, model, {"momentum": 0.95, "nesterov": True, "ns_steps": 3, "scale": "original", "lr": 2.0 ** -6})
