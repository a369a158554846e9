#!/usr/bin/env bash
# resource_usage.sh NVCC HOST_COMPILER KERNELS_DIR FILE.cu…: each kernel, for each architecture that is shipped, uses no stack and spills
# nothing, and ptxas ignored nothing that the source asked for. Needs no GPU.
set -euo pipefail
nvcc=$1 host=$2 kernels=$3
shift 3
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
failed=0 seen=0
for source in "$@"; do
  for architecture in 80 90a; do
    report=$("$nvcc" -std=c++20 -O3 -ccbin "$host" "-gencode=arch=compute_$architecture,code=sm_$architecture" --expt-relaxed-constexpr \
      -I"$kernels" -I"$kernels/include" -Xptxas -v -cubin -o "$scratch/kernel.cubin" "$kernels/$source" 2>&1) || { echo "$report"; exit 1; }
    functions=$(grep -c 'bytes stack frame' <<<"$report") || functions=0
    registers=$(grep -o 'Used [0-9]* registers' <<<"$report" | tr '\n' ' ') || true
    echo "$source sm_$architecture: $functions functions; $registers"
    seen=$((seen + functions))
    if grep 'bytes stack frame' <<<"$report" | grep -v '^ *0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads$'; then
      echo "FAILED: $source sm_$architecture uses a stack or spills"
      failed=1
    fi
    if grep -E 'C75[0-9][0-9]|warning' <<<"$report"; then
      echo "FAILED: $source sm_$architecture: a warning"
      failed=1
    fi
  done
done
[[ $seen -gt 0 ]] || { echo "FAILED: ptxas reported no kernel"; failed=1; }
exit $failed
