#!/usr/bin/env python3
"""The program to compare with: a Llama of Hugging Face transformers, trained by PyTorch from Python.

One step is what one of ours is: forward, cross-entropy in fp32, backward, gradient norm clipped to 1, fused AdamW, the loss read back.
bf16 means autocast over fp32 weights, as its users train.

  peer.py --precision bf16 --mode compile --device cuda       warms up, times --steps steps, prints one JSON line
  peer.py --serve …                                           answers "step" and "quit" lines on standard input, for a driver
"""

import argparse
import json
import statistics
import sys
import time

SHAPE = {"layers": 6, "width": 256, "inner": 704, "heads": 4, "kv-heads": 4, "vocab": 4096, "sequence": 256, "batch": 16}


def parse_arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in SHAPE.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--mode", choices=("eager", "compile"), default="eager")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--warmup", type=int, default=3, help="steps before the timed ones")
    parser.add_argument("--steps", type=int, default=10, help="timed steps")
    parser.add_argument("--serve", action="store_true")
    return parser.parse_args(argv)


class Peer:
    def __init__(self, arguments):
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        self.torch, self.device = torch, torch.device(arguments.device)
        torch.manual_seed(1)
        shape = LlamaConfig(vocab_size=arguments.vocab, hidden_size=arguments.width, intermediate_size=arguments.inner,
                            num_hidden_layers=arguments.layers, num_attention_heads=arguments.heads,
                            num_key_value_heads=arguments.kv_heads, max_position_embeddings=arguments.sequence,
                            tie_word_embeddings=True, use_cache=False, attn_implementation="sdpa")
        self.model = LlamaForCausalLM(shape).to(self.device)
        self.model.train()
        self.parameters = sum(parameter.numel() for parameter in self.model.parameters())
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.01, fused=True)
        self.forward = torch.compile(self.model) if arguments.mode == "compile" else self.model
        self.low_precision = arguments.precision == "bf16"
        self.tokens = torch.randint(arguments.vocab, (arguments.batch, arguments.sequence + 1), device=self.device)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def step(self):
        """(seconds, loss) of one step."""
        torch = self.torch
        self.wait()
        begin = time.perf_counter()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.low_precision):
            logits = self.forward(self.tokens[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.float().reshape(-1, logits.shape[-1]), self.tokens[:, 1:].reshape(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        value = loss.item()
        self.wait()
        return time.perf_counter() - begin, value

    def wait(self):
        if self.device.type == "cuda":
            self.torch.cuda.synchronize(self.device)

    def peak_bytes(self):
        """On a GPU its memory in tensors, else the most that this process ever held."""
        if self.device.type == "cuda":
            return self.torch.cuda.max_memory_allocated(self.device)
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))


def serve(peer):
    def answer(**fields):
        print(json.dumps(fields), flush=True)

    answer(ready=True, parameters=peer.parameters)
    for line in sys.stdin:
        if line.strip() == "quit":
            break
        seconds, loss = peer.step()
        answer(seconds=seconds, loss=loss)
    answer(peak_bytes=peer.peak_bytes())


def measure(peer, arguments):
    begin = time.perf_counter()
    for _ in range(arguments.warmup):
        peer.step()
    warmup_seconds = time.perf_counter() - begin
    timed = [peer.step() for _ in range(arguments.steps)]
    median = statistics.median(seconds for seconds, _ in timed)
    print(json.dumps({"program": f"transformers {arguments.mode}", "precision": arguments.precision, "device": arguments.device,
                      "parameters": peer.parameters, "tokens_per_second": arguments.batch * arguments.sequence / median,
                      "median_seconds": median, "warmup_seconds": warmup_seconds, "steps": arguments.steps, "loss": timed[-1][1],
                      "peak_bytes": peer.peak_bytes(), "torch": peer.torch.__version__}))


def main(argv):
    arguments = parse_arguments(argv)
    peer = Peer(arguments)
    if arguments.serve:
        serve(peer)
    else:
        measure(peer, arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
