# Where things are. Sourced by scripts/meristem and scripts/test; no command here is slow, because every call of `meristem` runs it.
# Sets and exports MERISTEM_ROOT, MERISTEM_HOME, MERISTEM_PYTHON, MERISTEM_BINARY, MERISTEM_BENCH; sets venv, build, programs, binary, stamp.

MERISTEM_ROOT=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../.." && pwd)
MERISTEM_HOME=${MERISTEM_HOME:-${HOME:?set HOME or MERISTEM_HOME}/.cache/meristem}
case $MERISTEM_HOME in /*) ;; *) MERISTEM_HOME=$PWD/$MERISTEM_HOME ;; esac

# The environment is keyed by the pins, so clones with the same pins share it and a changed pin makes a new one.
pins=$(cat "$MERISTEM_ROOT/third_party/python.txt" "$MERISTEM_ROOT/third_party/constraints.txt" | sha256sum)
venv=$MERISTEM_HOME/venv-${pins:0:12}

# A build folder for each environment too, so that two homes, or a machine with a GPU and one without, do not build over one another.
build=$MERISTEM_ROOT/build/release
if [[ $MERISTEM_HOME != "${HOME:-}/.cache/meristem" ]]; then
  home_key=$(printf %s "$MERISTEM_HOME" | sha256sum)
  build+=-${home_key:0:8}
fi
if [[ -e /dev/nvidiactl ]]; then build+=-gpu; fi

# What is run is a copy of the program in a folder named by its content: a build beside a running job publishes another one.
programs=$build/programs
binary=$programs/current/meristem # `ready` makes it the copy itself
stamp=$build/.ready-meristem # as old as the start of the last build that succeeded; holds what it was built with
MERISTEM_PYTHON=$venv/bin/python
MERISTEM_BINARY=$binary
MERISTEM_BENCH=$build/bin/meristem-bench
export MERISTEM_ROOT MERISTEM_HOME MERISTEM_PYTHON MERISTEM_BINARY MERISTEM_BENCH

# How long a thread that waits for the others spins before it gives its core back; libgomp reads it when a program starts. Its own choice
# leaves a run a sixth of its rate beside other busy processes. docs/metrics.md, "Threads"; measured by scripts/bench/waiting.
if [[ -z ${GOMP_SPINCOUNT:-}${OMP_WAIT_POLICY:-} ]]; then export GOMP_SPINCOUNT=2000; fi

# What a build depends on besides the sources.
build_identity() {
  local gpu=cpu
  [[ -e /dev/nvidiactl ]] && gpu=gpu
  echo "$venv $gpu"
}

venv_is_ready() { [[ -f $venv/.ready && -x $MERISTEM_PYTHON ]]; }

# True where the binary is newer than everything it is made from. A deleted file counts too: its folder's time changes.
build_is_ready() {
  local made_with=
  [[ -x $programs/current/meristem && -f $stamp ]] && IFS= read -r made_with <"$stamp" && [[ $made_with == "$(build_identity)" ]] &&
    [[ -z $(cd "$MERISTEM_ROOT" && find src kernels cmake third_party CMakeLists.txt CMakePresets.json -newer "$stamp" -print -quit) ]]
}
