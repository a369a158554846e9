# Parts of a long check, each with a time budget. Sourced by scripts/gpu_check, which sets `out` and `seconds_in_all`.
# What became of each part stands in $out/sections.tsv: name, state (passed | failed | out of time | skipped), seconds, note.

say() { printf '== %4d s  %s\n' "$SECONDS" "$*"; }

begin_sections() { : >"$out/sections.tsv"; failed=0; }

seconds_left() { echo $((seconds_in_all - SECONDS)); }

note_section() { # NAME STATE SECONDS NOTE
  printf '%s\t%s\t%s\t%s\n' "$@" >>"$out/sections.tsv"
  [[ $2 == passed || $2 == skipped ]] || failed=1
}

wanted() { [[ -z ${only:-} || " $only " == *" $1 "* ]]; }

skip_section() { # NAME WHY
  wanted "$1" || return 0
  say "$1: skipped: $2"
  note_section "$1" skipped 0 "$2"
}

# section NAME BUDGET COMMAND…: runs it for at most BUDGET seconds, or what is left; its output goes to $out/NAME.log. 4: it was skipped.
section() {
  local name=$1 budget=$2 left begin=$SECONDS rc=0
  shift 2
  wanted "$name" || return 0
  left=$(seconds_left)
  if ((left < 10)); then
    skip_section "$name" "no time left; --minutes gives more"
    return 0
  fi
  ((budget <= left)) || budget=$left
  say "$name: at most $budget s"
  # In a function's place an external command: `timeout` runs no functions.
  timeout --kill-after=10 "$budget" "$@" >"$out/$name.log" 2>&1 </dev/null || rc=$?
  local seconds=$((SECONDS - begin))
  case $rc in
    0) note_section "$name" passed "$seconds" "" ;;
    4) note_section "$name" skipped "$seconds" "$(grep -m 1 -i skipped "$out/$name.log" | cut -c 1-100 || true)" ;;
    124 | 137) note_section "$name" "out of time" "$seconds" "budget $budget s"; say "$name: out of time" ;;
    *) note_section "$name" failed "$seconds" "exit code $rc, $name.log"; say "$name: failed"; tail -n 15 "$out/$name.log" ;;
  esac
}
