"""A plain fine-tuning loop in transformers with our weights, ids and masks: the peer of `meristem train` with data.packing: best_fit."""

import json
import math
import subprocess
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import LlamaConfig, LlamaForCausalLM


def llama_of(checkpoint, model):
    """LlamaForCausalLM with the weights of one of our checkpoints; `model`: the config's section, resolved. Ours turns the halves of a head
    as transformers does, so rows keep their places."""
    attention, inner = model["attention"], model["feed_forward"]["inner"]
    config = LlamaConfig(vocab_size=model["vocab_size"], hidden_size=model["width"], intermediate_size=inner, num_hidden_layers=model["blocks"],
                         num_attention_heads=attention["heads"], num_key_value_heads=attention["kv_heads"], head_dim=attention["head_dim"],
                         rms_norm_eps=float(model["norm_eps"]),
                         rope_parameters={"rope_type": "default", "rope_theta": float(attention["rope_theta"])},
                         tie_word_embeddings=model["tie_embeddings"],
                         attention_bias=False, mlp_bias=False, use_cache=False)
    with safe_open(str(checkpoint / "model.safetensors"), framework="pt") as file:
        ours = {name: file.get_tensor(name) for name in file.keys()}
    theirs = {"model.embed_tokens.weight": ours["embedding.weight"], "model.norm.weight": ours["norm.weight"]}
    theirs["lm_head.weight"] = ours["embedding.weight" if model["tie_embeddings"] else "head.weight"]
    query, key = attention["heads"] * attention["head_dim"], attention["kv_heads"] * attention["head_dim"]
    for i in range(model["blocks"]):
        mine, its = f"blocks.{i}.", f"model.layers.{i}."
        q, k, v = ours[mine + "attention.qkv.weight"].split([query, key, key])
        gate, up = ours[mine + "feed_forward.gate_up.weight"].split([inner, inner])
        theirs |= {its + "self_attn.q_proj.weight": q, its + "self_attn.k_proj.weight": k, its + "self_attn.v_proj.weight": v,
                   its + "self_attn.o_proj.weight": ours[mine + "attention.output.weight"], its + "mlp.gate_proj.weight": gate,
                   its + "mlp.up_proj.weight": up, its + "mlp.down_proj.weight": ours[mine + "feed_forward.down.weight"],
                   its + "input_layernorm.weight": ours[mine + "attention.norm.weight"],
                   its + "post_attention_layernorm.weight": ours[mine + "feed_forward.norm.weight"]}
    llama = LlamaForCausalLM(config)
    llama.load_state_dict(theirs)
    return llama


def batches_of(driver, prefix, config, count):
    """For each update, its documents as (ids, labels): labels -100 where there is no target, as transformers has them."""
    data = config["data"]
    (name,) = data["sources"]
    sequences = config["batch"]["tokens"] // data["sequence_length"]
    words = [driver, "rows", prefix, config["model"]["vocab_size"], data["sequence_length"], count * sequences, config["run"]["seed"], name, data["packing"]]
    out = subprocess.run([str(word) for word in words], check=True, capture_output=True, text=True).stdout.splitlines()
    rows = [[int(word) for word in line.split()] for line in out]
    for step in range(count):
        documents = []
        for row in range(step * sequences, (step + 1) * sequences):
            inputs, targets, edges = rows[3 * row : 3 * row + 3]
            for begin, end in zip(edges, edges[1:]):
                labels = [-100] + [target if target >= 0 else -100 for target in targets[begin : end - 1]]
                if any(label >= 0 for label in labels):
                    documents.append((inputs[begin:end], labels))
        yield documents


def padded(documents):
    longest = max(len(ids) for ids, _ in documents)
    ids = torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in documents])
    labels = torch.tensor([labels + [-100] * (longest - len(labels)) for _, labels in documents])
    attention = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in documents])
    return ids, labels, attention


def learning_rates(path):
    with open(path, encoding="utf-8") as lines:
        steps = [json.loads(line) for line in lines]
    return [line["lr"] for line in steps if "event" not in line]


def train(llama, batches, rates, optimizer, at_once=16):
    """Losses, one an update: the mean over the targets of the update. Documents are padded, not packed: attention cannot cross them."""
    decayed = [p for name, p in llama.named_parameters() if p.dim() > 1 and "embed_tokens" not in name]
    rest = [p for name, p in llama.named_parameters() if p.dim() == 1 or "embed_tokens" in name]
    adamw = torch.optim.AdamW([{"params": decayed, "weight_decay": float(optimizer["weight_decay"])}, {"params": rest, "weight_decay": 0.0}],
                              lr=1.0, betas=tuple(map(float, optimizer["betas"])), eps=float(optimizer["eps"]))
    losses = []
    for documents, rate in zip(batches, rates):
        adamw.zero_grad()
        targets = sum(label >= 0 for _, labels in documents for label in labels)
        total = 0.0
        documents = sorted(documents, key=lambda document: len(document[0]))  # less padding
        for begin in range(0, len(documents), at_once):
            ids, labels, attention = padded(documents[begin : begin + at_once])
            loss = llama(input_ids=ids, attention_mask=attention, labels=labels, num_items_in_batch=targets).loss
            loss.backward()
            total += loss.item()
        if optimizer["clip_norm"] > 0:
            torch.nn.utils.clip_grad_norm_(llama.parameters(), optimizer["clip_norm"])
        for group in adamw.param_groups:
            group["lr"] = rate
        adamw.step()
        losses.append(total)
    return losses


def largest_difference(ours, theirs):
    """Largest relative difference of two curves, NaN where a value is."""
    differences = [abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True)]
    return math.nan if any(math.isnan(d) for d in differences) else max(differences)


def main(argv):
    """transformers_peer.py DATA_DRIVER RUN_DIR SHARD STEPS: both curves of a finished run whose checkpoint.initial is still there."""
    import yaml

    driver, run, shard, steps = argv[0], Path(argv[1]), argv[2], int(argv[3])
    config = yaml.safe_load((run / "config.yaml").read_text())
    events = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    lines = list(events)
    checkpoint = Path(next(line for line in lines if line.get("event") == "initial")["checkpoint"])
    ours = [line["loss"] for line in lines if "event" not in line][:steps]
    batches = batches_of(driver, shard, config, steps)
    theirs = train(llama_of(checkpoint, config["model"]), batches, learning_rates(run / "metrics.jsonl"), config["optimizer"])
    for step in range(0, steps, 10):
        print(f"step {step + 1}: {ours[step]:.6f} here, {theirs[step]:.6f} in transformers")
    print(f"{steps} steps, last {ours[-1]:.6f} and {theirs[-1]:.6f}: largest relative difference {largest_difference(ours, theirs):.3g}")


if __name__ == "__main__":
    main(sys.argv[1:])
