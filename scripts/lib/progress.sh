# What the user sees while something is prepared. Everything goes to stderr: stdout belongs to the command that was asked for.

say() { printf 'meristem: %s\n' "$*" >&2; }

# die CODE MESSAGE…
die() {
  local code=$1
  shift
  printf 'meristem: error: %s\n' "$*" >&2
  exit "$code"
}

# with_progress LABEL LOG COMMAND…: runs the command with its output in LOG and shows the time so far and the log's last line: on a terminal in
# place, in a pipe as a line now and then. On failure prints the end of the log and returns the command's status.
with_progress() {
  local label=$1 log=$2 begin=$SECONDS rc=0 reporter
  shift 2
  mkdir -p "$(dirname "$log")"
  : >"$log"
  say "$label …"
  report_progress "$log" &
  reporter=$!
  "$@" >"$log" 2>&1 </dev/null || rc=$?
  kill "$reporter" 2>/dev/null || true
  wait "$reporter" 2>/dev/null || true
  if [[ -t 2 ]]; then printf '\r\033[K' >&2; fi
  if [[ $rc -ne 0 ]]; then
    tail -n 40 "$log" >&2
    say "$label failed after $((SECONDS - begin)) s; the whole log: $log"
    return "$rc"
  fi
  say "$label: done in $((SECONDS - begin)) s"
}

# Runs beside the command until it is killed, or until this script is gone.
report_progress() { # LOG
  local begin=$SECONDS every=15 before='' after='\n' last
  if [[ -t 2 ]]; then every=1 before='\r' after='\033[K'; fi
  exec 7<&- 8>&- 9>&- # locks: a sleeping reporter must not hold them, nor the caller's pipes
  while sleep $every >/dev/null 2>&1 && kill -0 $$ 2>/dev/null; do
    last=$(tail -c 4000 "$1" | tr '\r' '\n' | grep -v '^[[:space:]]*$' | tail -n 1 | cut -c 1-90) || true
    printf "${before}meristem:   %4d s  %s${after}" $((SECONDS - begin)) "$last" >&2
  done
}
