#!/usr/bin/env python3
"""The programs to compare with: transformers' generate, and the Hugging Face model of lm-evaluation-harness. Reads a JSON request a line on standard input
and answers each with a JSON line; loading is over before the first.

  eval_peer.py FOLDER --dtype float32 --threads 2 [--harness --batch 8]
  {"prompts": [[ids], …], "tokens": N, "cache": "dynamic"}   → {"seconds": s, "answers": [[ids], …]}
  {"requests": [[context, continuation], …]}                 → {"seconds": s, "log_likelihoods": […]}
"""

import argparse
import json
import os
import sys
import time


def generate(model, torch, request):
    """Greedy, all prompts of one length, none ends early."""
    ids = torch.tensor(request["prompts"])
    options = {"cache_implementation": "static"} if request["cache"] == "static" else {}
    begin = time.perf_counter()
    with torch.inference_mode():
        out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, min_new_tokens=request["tokens"], max_new_tokens=request["tokens"], pad_token_id=0, **options)
    return {"seconds": time.perf_counter() - begin, "answers": out[:, ids.shape[1]:].tolist()}


def score(harness, request):
    from lm_eval.api.instance import Instance

    asked = [Instance("loglikelihood", {}, tuple(pair), 0) for pair in request["requests"]]
    begin = time.perf_counter()
    found = harness.loglikelihood(asked, disable_tqdm=True)
    return {"seconds": time.perf_counter() - begin, "log_likelihoods": [value for value, _ in found]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--harness", action="store_true")
    parser.add_argument("--batch", type=int, default=8)
    arguments = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true", "TRANSFORMERS_VERBOSITY": "error"}
    answers = os.fdopen(os.dup(1), "w")  # libraries print as they please
    os.dup2(2, 1)
    import torch

    torch.set_num_threads(arguments.threads)
    if arguments.harness:
        from lm_eval.models.huggingface import HFLM

        harness = HFLM(pretrained=arguments.folder, dtype=arguments.dtype, device="cpu", batch_size=arguments.batch, max_length=1 << 16)  # it would cut longer items off
        answer = lambda request: score(harness, request)  # noqa: E731
    else:
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(arguments.folder, dtype=getattr(torch, arguments.dtype)).eval()
        answer = lambda request: generate(model, torch, request)  # noqa: E731
    for line in sys.stdin:
        answers.write(json.dumps(answer(json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
