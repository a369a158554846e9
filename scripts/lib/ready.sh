# Brings the environment, and for `binary` the build, up to date; returns at once where they are. After paths.sh.
ready() { # python | binary
  if venv_is_ready && { [[ $1 == python ]] || build_is_ready; }; then return; fi
  local lib=$MERISTEM_ROOT/scripts/lib
  source "$lib/progress.sh"
  source "$lib/packages.sh"
  source "$lib/prepare.sh"
  prepare_packages
  prepare_venv
  [[ $1 == python ]] || prepare_build meristem
}
