# Brings the environment, and what else is named, up to date; returns at once where they are. After paths.sh.
ready() { # python | binary | bench: the program, or it and meristem-bench, which is built where it is asked for
  if ! { venv_is_ready && { [[ $1 == python ]] || { [[ $1 == binary ]] && build_is_ready; }; }; }; then prepare "$1"; fi
  [[ $1 == python ]] || hold_program
}

prepare() {
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

# Sets MERISTEM_BINARY to the program as it is now, and holds it for as long as this process, or what it becomes, lives: the lock is on an open
# file, which goes over to the command. A build meanwhile publishes another program and lets this one be.
hold_program() {
  while binary=$(readlink -e "$programs/current/meristem"); do
    if { exec 7<"$binary"; } 2>/dev/null && flock -s 7 && [[ -e $binary ]]; then
      MERISTEM_BINARY=$binary
      return
    fi # it was replaced, and removed, since its name was read
  done
  printf 'meristem: error: %s: no such program; the same command builds it again\n' "$programs/current/meristem" >&2
  exit 1
}
