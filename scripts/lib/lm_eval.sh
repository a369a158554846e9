# The environment of lm-evaluation-harness: its own packages over those of the project's, so that Torch is installed once. After paths.sh and ready.sh.
lm_eval_pins=$(cat "$MERISTEM_ROOT/third_party/python.txt" "$MERISTEM_ROOT/third_party/constraints.txt" "$MERISTEM_ROOT/third_party/lm_eval.txt" | sha256sum)
lm_eval_venv=$MERISTEM_HOME/lm_eval-${lm_eval_pins:0:12}
MERISTEM_LM_EVAL=$lm_eval_venv/bin/python
export MERISTEM_LM_EVAL

ready_lm_eval() {
  if [[ -f $lm_eval_venv/.ready && -x $MERISTEM_LM_EVAL ]]; then return; fi
  source "$MERISTEM_ROOT/scripts/lib/progress.sh"
  exec 8>"$lm_eval_venv.lock"
  flock -n 8 || { say "another call is preparing $lm_eval_venv; waiting"; flock 8; }
  if [[ ! -f $lm_eval_venv/.ready ]]; then
    rm -rf "$lm_eval_venv" # what an interrupted call left is not to be trusted
    "$MERISTEM_PYTHON" -m venv --without-pip "$lm_eval_venv" || exit 1
    # What is not there is looked for in the project's environment, by the installer too.
    local own=("$lm_eval_venv"/lib/python3*/site-packages) project=("$venv"/lib/python3*/site-packages)
    echo "${project[0]}" >"${own[0]}/meristem.pth"
    # Some of it comes as source archives, which the project's setuptools builds.
    with_progress "installing lm-evaluation-harness (about 450 MB, a few minutes)" "$MERISTEM_HOME/logs/lm_eval.log" \
      "$MERISTEM_PYTHON" -m pip --python "$MERISTEM_LM_EVAL" install --no-input --progress-bar off --disable-pip-version-check --no-build-isolation --no-deps \
      -r "$MERISTEM_ROOT/third_party/lm_eval.txt" || exit 1
    : >"$lm_eval_venv/.ready"
  fi
  exec 8>&-
}
