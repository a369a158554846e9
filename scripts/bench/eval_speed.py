#!/usr/bin/env python3
"""Ours and the peer's, taking turns: scoring against lm-evaluation-harness on the same exported model and items, generation against transformers on the
same weights and prompts. Loading a model counts on neither side; tokenizing counts on both. A ratio is the median of those of the rounds.

  scripts/bench/eval generation --size 30M 135M --batch 1 16 --precision fp32 bf16 --rounds 3
  scripts/bench/eval scoring --checkpoint runs/quickstart --tasks variable-assignment-code-3 --items 20

The harness's environment is that of `scripts/meristem lm-eval` (or --harness-python).
"""

import argparse
import hashlib
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "python"))

from evaluation import evaluate  # noqa: E402
from text.tokenizer import find_tokenizer, load_tokenizer  # noqa: E402

SIZES = {
    "1M": {"width": 96, "blocks": 12, "heads": 3, "kv_heads": 1, "inner": 256, "vocab": 2048},
    "30M": {"width": 512, "blocks": 8, "heads": 8, "kv_heads": 8, "inner": 1408, "vocab": 8192},
    "135M": {"width": 576, "blocks": 30, "heads": 9, "kv_heads": 3, "inner": 1536, "vocab": 49152},  # SmolLM2's
}
TYPES = {"fp32": "float32", "bf16": "bfloat16"}
BINARY = os.environ.get("MERISTEM_BINARY", "")


def run(*words, **settings):
    result = subprocess.run([str(word) for word in words], capture_output=True, text=True, **settings)
    if result.returncode != 0:
        raise SystemExit(f"bench: {' '.join(map(str, words[:3]))} …: exit code {result.returncode}: {result.stderr.strip()[-500:]}")
    return result


def seconds_of(stderr):
    """What the program says with --seconds."""
    return next(float(line.split()[1]) for line in stderr.splitlines() if line.startswith("seconds "))


def digest(data):
    return hashlib.sha256(data).hexdigest()[:12]


def random_folder(size, folder, tokenizer=None):
    """A Hugging Face folder with random weights, and the checkpoint that `import` makes of it. With a tokenizer its vocabulary is that one's."""
    name = size if tokenizer is None else f"{size}-{digest(tokenizer.read_bytes())}"
    exported, checkpoint = folder / f"{name}-hf", folder / name
    if not checkpoint.exists():
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        shape = SIZES[size] | ({"vocab": len(json.loads(tokenizer.read_text())["model"]["vocab"])} if tokenizer else {})
        torch.manual_seed(1)
        config = LlamaConfig(vocab_size=shape["vocab"], hidden_size=shape["width"], intermediate_size=shape["inner"], num_hidden_layers=shape["blocks"],
                             num_attention_heads=shape["heads"], num_key_value_heads=shape["kv_heads"], max_position_embeddings=2048, tie_word_embeddings=True,
                             initializer_range=0.05, bos_token_id=None, eos_token_id=None)
        LlamaForCausalLM(config).save_pretrained(exported)
        for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
            if tokenizer and (tokenizer.parent / name).exists():
                shutil.copy(tokenizer.parent / name, exported / name)
        if tokenizer and not (exported / "tokenizer_config.json").exists():
            # The harness begins with a token that ends texts; any special one will do for random weights.
            special = next(each["content"] for each in json.loads(tokenizer.read_text())["added_tokens"] if each["special"])
            (exported / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": special}))
        run(BINARY, "import", exported, "--out", checkpoint)
    return checkpoint, exported


class Peer:
    def __init__(self, python, folder, dtype, *words):
        command = [str(python), str(HERE / "eval_peer.py"), str(folder), "--dtype", dtype, "--threads", str(os.cpu_count()), *map(str, words)]
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, request):
        self.child.stdin.write(json.dumps(request) + "\n")
        self.child.stdin.flush()
        line = self.child.stdout.readline()
        if not line:
            raise SystemExit(f"bench: the peer ended early with exit code {self.child.wait()}")
        return json.loads(line)

    def close(self):
        self.child.stdin.close()
        self.child.stdout.close()
        self.child.wait()


def our_answers(checkpoint, precision, prompts, tokens, folder):
    file = folder / "prompts.jsonl"
    file.write_text("".join(json.dumps({"prompt": ids}) + "\n" for ids in prompts))
    said = run(BINARY, "generate", checkpoint, "--prompts-ids", file, "--batch", len(prompts), "--max-tokens", tokens, "--temperature", 0, "--precision", precision, "--seconds")
    answers = {found["prompt"]: found["answer"] for found in map(json.loads, said.stdout.splitlines())}
    return {"seconds": seconds_of(said.stderr), "answers": [answers[number] for number in range(len(prompts))]}


def our_scores(checkpoint, precision, task, tokenizer, begin, ends, folder):
    """Tokenizing counts."""
    file, started = folder / "items.jsonl", time.perf_counter()
    with file.open("w") as out:
        evaluate.write_item_ids(out, tokenizer, task, begin, ends)
    tokenized = time.perf_counter() - started
    said = run(BINARY, "eval", checkpoint, "--item-ids", file, "--precision", precision, "--seconds")
    return {"seconds": tokenized + seconds_of(said.stderr), "log_likelihoods": [x for line in said.stdout.splitlines() for x in json.loads(line)["log_likelihoods"]]}


def in_turns(rounds, ours, peers):
    """(seconds of ours, {name: seconds}, last results) of `rounds` rounds behind one that is not counted; who begins changes."""
    seconds, last = {"ours": [], **{name: [] for name in peers}}, {}
    for number in range(rounds + 1):
        order = [("ours", ours), *peers.items()]
        for name, work in order if number % 2 else reversed(order):
            last[name] = work()
            if number:
                seconds[name].append(last[name]["seconds"])
    return seconds, last


def ratios(seconds, best):
    return [peer / own for peer, own in zip(seconds[best], seconds["ours"])]


def first_difference(ours, theirs):
    """Where two texts part; their length where they do not."""
    return next((at for at, (one, other) in enumerate(zip(ours, theirs)) if one != other), len(ours))


def generation(arguments, folder):
    rows = []
    for size in arguments.size:
        checkpoint, exported = random_folder(size, folder)
        for precision in arguments.precision:
            peer = Peer(sys.executable, exported, TYPES[precision])
            for batch in arguments.batch:
                draw = random.Random(batch)
                prompts = [[draw.randrange(1, 2000) for _ in range(arguments.prompt)] for _ in range(batch)]
                asks = {cache: lambda cache=cache: peer.ask({"prompts": prompts, "tokens": arguments.tokens, "cache": cache}) for cache in arguments.cache}
                seconds, last = in_turns(arguments.rounds, lambda: our_answers(checkpoint, precision, prompts, arguments.tokens, folder), asks)
                best = min(arguments.cache, key=lambda cache: statistics.median(seconds[cache]))
                parts = [first_difference(*pair) for pair in zip(last["ours"]["answers"], last[best]["answers"])]
                rows.append({"size": size, "precision": precision, "batch": batch, "seconds": seconds, "peer": best, "ratios": ratios(seconds, best), "parts_at": parts})
                print(f"{size} {precision} batch {batch}: ours {statistics.median(seconds['ours']):.2f} s, transformers ({best}) {statistics.median(seconds[best]):.2f} s, "
                      f"{times(rows[-1]['ratios'])}, {sum(at == arguments.tokens for at in parts)} of {batch} texts equal", flush=True)
            peer.close()
    return rows


def times(found):
    return f"{statistics.median(found):.2f} times as fast ({min(found):.2f}-{max(found):.2f})"


def scoring(arguments, folder):
    rows = []
    if arguments.checkpoint:
        models, tokenizer_path = {str(arguments.checkpoint): None}, find_tokenizer(arguments.checkpoint)
    else:
        models, tokenizer_path = {size: size for size in arguments.size}, arguments.tokenizer
        if tokenizer_path is None:
            raise SystemExit("bench: scoring needs --checkpoint, or --size and --tokenizer")
    tokenizer, path = load_tokenizer(tokenizer_path, read_special=True)
    python = arguments.harness_python or next(iter(sorted(Path(os.environ["MERISTEM_HOME"]).glob("lm_eval-*/bin/python"))), None)
    if python is None:
        raise SystemExit("bench: no harness here; run `scripts/meristem lm-eval --help` once, or give --harness-python")
    for name, size in models.items():
        if size:
            checkpoint, exported = random_folder(size, folder, path)
        else:
            state = f"{arguments.checkpoint.resolve()} {max(each.stat().st_mtime_ns for each in (arguments.checkpoint, *arguments.checkpoint.glob('checkpoints/*')))}"
            checkpoint, exported = arguments.checkpoint, folder / f"{digest(state.encode())}-hf"
            if not exported.exists():
                run(BINARY, "export", checkpoint, "--out", exported)
        for precision in arguments.precision:
            peers = {f"batch {batch}": Peer(python, exported, TYPES[precision], "--harness", "--batch", batch) for batch in arguments.harness_batch}
            for task in evaluate.tasks_of(arguments.tasks, arguments.items, arguments.shots, 42):
                pairs = [[item.context, choice] for item in task.items for choice in item.choices]
                asks = {batch: lambda peer=peer: peer.ask({"requests": pairs}) for batch, peer in peers.items()}
                seconds, last = in_turns(arguments.rounds, lambda: our_scores(checkpoint, precision, task, tokenizer, (), (), folder), asks)
                best = min(peers, key=lambda batch: statistics.median(seconds[batch]))
                apart = max(abs(own - other) for own, other in zip(last["ours"]["log_likelihoods"], last[best]["log_likelihoods"], strict=True))
                rows.append({"model": name, "precision": precision, "task": task.name, "items": len(task.items), "seconds": seconds, "peer": best, "ratios": ratios(seconds, best), "apart": apart})
                print(f"{name} {precision} {task.name}, {len(task.items)} items: ours {statistics.median(seconds['ours']):.2f} s, the harness ({best}) "
                      f"{statistics.median(seconds[best]):.2f} s, {times(rows[-1]['ratios'])}, log-likelihoods at most {apart:.1e} apart", flush=True)
            for peer in peers.values():
                peer.close()
    return rows


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("generation", "scoring"))
    parser.add_argument("--size", nargs="+", default=["30M"], choices=list(SIZES))
    parser.add_argument("--precision", nargs="+", default=["fp32"], choices=list(TYPES))
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 16], help="texts that are generated at once")
    parser.add_argument("--cache", nargs="+", default=["dynamic"], choices=("dynamic", "static"), help="transformers' caches; the faster one counts")
    parser.add_argument("--prompt", type=int, default=32, help="tokens of a prompt")
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--checkpoint", type=Path, help="scoring: a trained model in place of random weights")
    parser.add_argument("--tokenizer", type=Path, help="scoring with random weights: a tokenizer.json")
    parser.add_argument("--shots", type=int)
    parser.add_argument("--tasks", default="variable-assignment-code-3")
    parser.add_argument("--items", type=int, default=20)
    parser.add_argument("--harness-python", type=Path)
    parser.add_argument("--harness-batch", nargs="+", type=int, default=[8], help="its batch sizes; the fastest counts")
    parser.add_argument("--folder", type=Path, help="where models are made and kept")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        rows = {"generation": generation, "scoring": scoring}[arguments.what](arguments, folder)
    if arguments.json:
        settings = {name: str(value) for name, value in vars(arguments).items()}
        arguments.json.write_text(json.dumps({"date": time.strftime("%Y-%m-%d"), "processor": platform.processor(), "cores": os.cpu_count(), "settings": settings, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
