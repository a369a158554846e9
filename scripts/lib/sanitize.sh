#!/usr/bin/env bash
# sanitize.sh COMPUTE_SANITIZER BUILD OUT: the conformance kernels and each operator once, at small sizes, under compute-sanitizer: memcheck
# for all, racecheck for shared memory, initcheck for what nobody wrote. Exit code 1 where a tool finds something, 4 where it cannot run here.
set -uo pipefail
sanitizer=$1 build=$2 out=$3
operators=("$build/bin/meristem-bench" operators --tiny --once)
conformance=("$build/tests/kernels/conformance_on_gpu")
status=0

watch() { # TOOL NAME COMMAND…
  local tool=$1 name=$2 log=$out/sanitizer_$1_$2.log rc=0
  shift 2
  "$sanitizer" --tool "$tool" --error-exitcode 9 --launch-timeout 60 "$@" >"$log" 2>&1 || rc=$?
  if grep -qE 'Device not supported|Unable to find|requires driver' "$log"; then
    echo "skipped: compute-sanitizer cannot watch this device: $(grep -m 1 -E 'Device not supported|Unable to find|requires driver' "$log")"
    exit 4
  fi
  echo "$tool $name: $([[ $rc -eq 0 ]] && echo clean || echo "exit code $rc, $log")"
  [[ $rc -eq 0 ]] || status=1
}

watch memcheck conformance "${conformance[@]}"
watch racecheck conformance "${conformance[@]}"
watch memcheck operators "${operators[@]}"
watch racecheck attention "${operators[@]}" attention depth_attention
# LibTorch's own copies of partly written buffers would be reported too: our kernels' conformance alone.
watch initcheck conformance "${conformance[@]}"
exit $status
