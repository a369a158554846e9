"""A shape, a batch, and the driver that runs one training step of ours on them."""

import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file


@dataclass
class Shape:
    vocab: int = 97
    width: int = 48
    inner: int = 80
    layers: int = 3
    heads: int = 6
    kv_heads: int = 2
    head_dim: int = 8
    context: int = 24
    theta: float = 10000.0
    eps: float = 1e-5
    tied: bool = True
    qk_norm: bool = False
    olmo2: bool = False  # post norm, and QK norm over all heads


def run_config(shape, sequences=1, micro_sequences=1, precision="fp32"):
    """A run config as the program reads it (JSON is YAML); its data are not opened by what these tests call."""
    return json.dumps({
        "model": {"norm": "post" if shape.olmo2 else "pre", "vocab_size": shape.vocab, "width": shape.width, "blocks": shape.layers, "norm_eps": shape.eps,
                  "attention": {"heads": shape.heads, "kv_heads": shape.kv_heads, "head_dim": shape.head_dim, "rope_theta": shape.theta,
                                "qk_norm": shape.qk_norm or shape.olmo2, "qk_norm_over": "all" if shape.olmo2 else "heads"},
                  "feed_forward": {"inner": shape.inner}, "tie_embeddings": shape.tied},
        "data": {"sequence_length": shape.context, "sources": {"none": {"path": "none"}}},
        "batch": {"tokens": sequences * shape.context, "micro_sequences": micro_sequences},
        "precision": {"compute": precision}})


@dataclass
class Batch:
    """`sequences` rows of equal length; `lengths` cuts the flattened batch into documents, each a whole number of which makes a row."""
    inputs: torch.Tensor     # int64 [N]
    targets: torch.Tensor    # int64 [N], -1 where there is none
    lengths: list
    sequences: int

    def positions(self):
        return torch.cat([torch.arange(length) for length in self.lengths])

    def documents(self):
        """(inputs, targets) of each document."""
        return zip(self.inputs.split(self.lengths), self.targets.split(self.lengths))

    def tensors(self):
        boundaries = torch.tensor([0] + self.lengths).cumsum(0)
        tensors = {"inputs": self.inputs, "targets": self.targets, "positions": self.positions(), "boundaries": boundaries,
                   "source": torch.arange(self.sequences)}
        return {name: tensor.to(torch.int32) for name, tensor in tensors.items()}


@dataclass
class Result:
    logits: torch.Tensor           # [N, V]
    gradients: dict                # by our names, sums over the targets
    loss: float = 0.0              # mean over the targets
    loss_by_row: torch.Tensor = None  # means over the targets of each document; from the driver, of each row
    types: dict = None


def run_driver(driver, shape, weights, batch, *arguments, micro_sequences=1, precision="fp32"):
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "run.yaml").write_text(run_config(shape, batch.sequences, micro_sequences, precision))
        save_file({name: tensor.float().contiguous() for name, tensor in weights.items()}, folder / "weights.safetensors")
        save_file(batch.tensors(), folder / "batch.safetensors")
        files = [folder / name for name in ("run.yaml", "weights.safetensors", "batch.safetensors", "out.safetensors")]
        # One thread: the models are too small for more.
        answer = subprocess.run([driver, *files, *arguments], capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        assert answer.returncode == 0, answer.stderr
        out = load_file(files[-1])
        with safe_open(files[-1], framework="pt") as file:
            types = file.metadata()
        gradients = {name[5:]: tensor for name, tensor in out.items() if name.startswith("grad.")}
        return Result(out["logits"], gradients, out["loss"].item(), out["loss_by_source"], types)
