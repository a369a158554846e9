"""scripts/bench/match_memory: what `plan` says of a model's memory beside what a process with it takes."""

import json
import os
import subprocess
import sys
from pathlib import Path

SMALL = ["precision.compute=fp32", "data.sequence_length=512", "batch.tokens=512", "batch.micro_sequences=1"]
MIB = 2**20


def output_of(program, command, config, arguments):
    done = subprocess.run([os.environ[program], command, config, *arguments], check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


def main(argv):
    configs = [argument for argument in argv if "=" not in argument]
    overrides = [argument for argument in argv if "=" in argument] or SMALL
    print("| config | parameters | FLOPs per token | KV bytes per token | planned peak | measured peak |\n|---|---|---|---|---|---|")
    for config in configs:
        plan = output_of("MERISTEM_BINARY", "plan", config, ["--json", *overrides])
        lane = next(iter(output_of("MERISTEM_BENCH", "variants", config, ["--rounds", "1", *overrides]).values()))
        measured = lane["peak_bytes"] - lane["bytes_before"]
        print(f"| {Path(config).stem} | {plan['parameters']['total']:,} | {plan['flops_per_token']['train']:.4e} | {plan['kv_bytes_per_token']:,.0f} "
              f"| {sum(plan['memory'][part] for part in ('weights', 'optimizer', 'gradients', 'activations')) / MIB:,.0f} MiB | {measured / MIB:,.0f} MiB |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
