#!/usr/bin/env bash
# same_symbols.sh CUDA_LIBRARY TWIN_LIBRARY [nm]: both define the same functions of meristem::kernels, so that a caller links with either; and
# the CUDA one has nothing of the CPU layer, which a kernel's header brings in where a .cpp file includes it.
set -euo pipefail
symbols() { # LIBRARY: external functions of the namespace, without what nvcc makes of kernels
  "${nm:-nm}" -C --defined-only --extern-only "$1" | sed -n 's/^[0-9a-f]* T //p' | grep -E '^meristem::kernels::[a-z_]+(\[abi:cxx11\])?\(' | sort
}
nm=${3:-nm}
difference=$(diff <(symbols "$1") <(symbols "$2")) || { printf 'FAILED: < only with CUDA, > only without\n%s\n' "$difference"; exit 1; }
[[ -n $(symbols "$1") ]] || { echo "FAILED: $1 defines nothing"; exit 1; }
of_cpu_layer=$("$nm" -C "$1" | sed -n '/kernels::device::host::/p')
[[ -z $of_cpu_layer ]] || { printf 'FAILED: the CUDA library holds code for the CPU layer\n%s\n' "${of_cpu_layer:0:500}"; exit 1; }
symbols "$1"
