# Brings the environment, and what else is named, up to date; returns at once where they are. After paths.sh.
ready() { # python | binary | bench: the program, or it and meristem-bench, which is built where it is asked for
  if venv_is_ready && { [[ $1 == python ]] || { [[ $1 == binary ]] && build_is_ready; }; }; then return; fi
  local lib=$MERISTEM_ROOT/scripts/lib
  source "$lib/progress.sh"
  source "$lib/packages.sh"
  source "$lib/prepare.sh"
  prepare_packages
  prepare_venv
  case $1 in
    binary) prepare_build meristem ;;
    bench) prepare_build meristem meristem-bench ;;
  esac
}
