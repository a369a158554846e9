#!/usr/bin/env bash
# nothing_ignored.sh NVCC ARGUMENTS…: runs it, and fails where ptxas notes (C75xx) that it ignored what the source asked for, such as setmaxnreg
# or the pipelining of wgmma. To ptxas that is no warning.
output=$("$@" 2>&1)
code=$?
[[ -z $output ]] || printf '%s\n' "$output" >&2
((code == 0)) || exit "$code"
if grep -qE '\(C75[0-9][0-9]\)' <<<"$output"; then
  echo "FAILED: ptxas ignored a request of the source, see above" >&2
  exit 1
fi
