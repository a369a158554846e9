#!/usr/bin/env bash
# Trains on several machines without Slurm: torchrun on each of them, with the same line. HOST is one of them; the others reach it at PORT.
#   scripts/launch/torchrun.sh NODES HOST:PORT RUN.yaml [key=value …]
# A rank a GPU, or RANKS_PER_NODE of them; MAX_RESTARTS of a failed attempt (0). Run folder and data are shared by all machines. docs/cluster.md
set -euo pipefail
lib=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../lib
source "$lib/paths.sh"
source "$lib/ready.sh"
if [[ $# -lt 3 || ! $1 =~ ^[1-9][0-9]*$ || ! $2 =~ ^.+:[0-9]+$ ]]; then
  echo "meristem: error: usage: scripts/launch/torchrun.sh NODES HOST:PORT RUN.yaml [key=value …]" >&2
  exit 2
fi
nodes=$1 meeting_point=$2
shift 2
ready binary
exec "$venv/bin/torchrun" --no-python --nnodes "$nodes" --nproc-per-node "${RANKS_PER_NODE:-auto}" --max-restarts "${MAX_RESTARTS:-0}" \
  --rdzv-backend c10d --rdzv-endpoint "$meeting_point" --rdzv-id "meristem-$meeting_point" "$binary" train "$@"
