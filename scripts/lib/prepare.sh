# The slow path: packages, Python environment, build. Each part is done once, and is safe to interrupt and to call twice at a time.

# Wheels are built for the CUDA that Torch brings: about 5 GB installed, whether or not there is a GPU.
prepare_venv() {
  venv_is_ready && return
  mkdir -p "$MERISTEM_HOME" 2>/dev/null && [[ -w $MERISTEM_HOME ]] || die 2 "MERISTEM_HOME=$MERISTEM_HOME cannot be written; set it to a folder that can"
  exec 8>"$venv.lock"
  flock -n 8 || { say "another call is preparing $venv; waiting"; flock 8; }
  if ! venv_is_ready; then
    local free_mib python
    free_mib=$(df -Pm "$MERISTEM_HOME" | awk 'NR == 2 {print $4}')
    [[ $free_mib -ge 6000 ]] || die 1 "$MERISTEM_HOME: 6000 MiB of free disk are needed, $free_mib are there; set MERISTEM_HOME to another disk"
    python=$(base_python) || die 2 "no Python 3.11-3.14 with venv found: install one, or name one in PYTHON"
    rm -rf "$venv" # what an interrupted call left is not to be trusted
    with_progress "making the Python environment $venv" "$MERISTEM_HOME/logs/venv.log" "$python" -m venv "$venv" || exit 1
    with_progress "installing Python packages (about 5 GB, some minutes)" "$MERISTEM_HOME/logs/pip.log" \
      "$MERISTEM_PYTHON" -m pip install --no-input --progress-bar off --disable-pip-version-check --only-binary :all: \
      -r "$MERISTEM_ROOT/third_party/python.txt" -c "$MERISTEM_ROOT/third_party/constraints.txt" || exit 1
    : >"$venv/.ready"
  fi
  exec 8>&-
}

# Programs are linked to CUDA where they can use it: a GPU that answers, and nvcc for the kernels.
cuda_mode() {
  if command -v nvcc >/dev/null || [[ -x ${CUDA_HOME:-/usr/local/cuda}/bin/nvcc ]]; then
    nvidia-smi -L >/dev/null 2>&1 && echo LINK || echo AUTO
  else
    echo AUTO
  fi
}

# Exports what the build tools need. The ccache folder is shared by all clones; the base folder makes their paths alike.
use_build_environment() {
  export PATH=$venv/bin:$PATH
  export CCACHE_DIR=${CCACHE_DIR:-$MERISTEM_HOME/ccache} CCACHE_BASEDIR=$MERISTEM_ROOT CCACHE_NOHASHDIR=1
}

# The built program gets a place of its own and the name `current`, by renames. Those that no job holds any more (hold_program) go.
publish_program() {
  local built=$build/bin/meristem id
  [[ -x $built ]] || return 0
  id=$(sha256sum <"$built")
  id=${id:0:12}
  if [[ ! -x $programs/$id/meristem ]]; then
    rm -rf "$programs/.new" && mkdir -p "$programs/.new" && cp "$built" "$programs/.new/meristem" && mv -T "$programs/.new" "$programs/$id" ||
      die 1 "$programs/$id/meristem: could not be written"
  fi
  ln -sfn "$id" "$programs/.current" && mv -T "$programs/.current" "$programs/current" || die 1 "$programs/current: could not be written"
  local program
  for program in "$programs"/*/meristem; do
    [[ $program != "$programs/current/meristem" && $program != "$programs/$id/meristem" ]] || continue
    if exec 6<"$program" && flock -n -x 6; then rm -rf "${program%/meristem}"; fi
    exec 6<&-
  done
}

# prepare_build TARGET…: configures where needed and builds the targets; ninja does nothing where nothing changed.
prepare_build() {
  local torch=("$venv"/lib/python3*/site-packages/torch)
  mkdir -p "$build"
  exec 9>"$build/.lock"
  flock -n 9 || { say "another call is building $build; waiting"; flock 9; }
  use_build_environment
  local identity started=$build/.started
  identity=$(build_identity)
  echo "$identity" >"$started" # its time is that of the build's start: an edit during the build counts as newer
  if [[ ! -f $build/build.ninja || ! -f $stamp || $(head -n 1 "$stamp") != "$identity" ]]; then
    (cd "$MERISTEM_ROOT" && with_progress "configuring" "$build/configure.log" \
      cmake --preset release -B "$build" "-DMERISTEM_CUDA=$(cuda_mode)" "-DMERISTEM_TORCH_ROOT=${torch[0]}" "-DMERISTEM_TEST_PYTHON=$MERISTEM_PYTHON") || exit 1
  fi
  with_progress "building ($*)" "$build/build.log" cmake --build "$build" --target "$@" || exit 1
  publish_program
  mv "$started" "$stamp"
  exec 9>&-
}
