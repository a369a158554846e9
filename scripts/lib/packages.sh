# What comes from the distribution: third_party/debian.txt compared with what is installed.

# Fields of third_party/debian.txt: name, kind (required | optional), one package a line.
listed_packages() { awk -F'|' '/^[^#]/ {gsub(/ /, "", $1); gsub(/ /, "", $3); print $1, $3}' "$MERISTEM_ROOT/third_party/debian.txt"; }

# A Python that is new enough for the pins and can make environments. Prints its path.
base_python() {
  local candidate
  for candidate in ${PYTHON:-} python3 /usr/bin/python3 python3.14 python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  return 1
}

# A compiler of the user's own choice needs no package.
compiler_is_here() { command -v "${CXX:-g++}" >/dev/null; }

missing_packages() { # KIND
  local name kind status installed names
  mapfile -t names < <(listed_packages | cut -d' ' -f1)
  status=$(dpkg-query -W -f='${Package} ${db:Status-Status}\n' "${names[@]}" 2>/dev/null) || true # fails where one is unknown
  installed=" $(awk '$2 == "installed" {printf "%s ", $1}' <<<"$status")"
  while read -r name kind; do
    [[ $kind == "$1" && $installed != *" $name "* ]] || continue
    case $name in
      g++) compiler_is_here && continue ;;
      python3-venv) base_python >/dev/null && continue ;;
    esac
    echo "$name"
  done < <(listed_packages)
}

install_packages() { # LOG NAMES…
  local log=$1
  shift
  local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -y)
  with_progress "listing Debian packages" "$log" "${apt[@]}" update &&
    with_progress "installing Debian packages: $*" "$log" "${apt[@]}" install --no-install-recommends "$@"
}

prepare_packages() {
  if ! command -v dpkg-query >/dev/null; then
    compiler_is_here || die 2 "no C++ compiler found: install g++ 12 or newer and the libraries named in third_party/debian.txt"
    base_python >/dev/null || die 2 "no Python 3.11-3.14 with venv found: install it, or name one in PYTHON"
    return
  fi
  local required optional
  mapfile -t required < <(missing_packages required)
  mapfile -t optional < <(missing_packages optional)
  [[ ${#required[@]} -gt 0 || ${#optional[@]} -gt 0 ]] || return 0
  local missing=("${required[@]}" "${optional[@]}")
  local line="sudo apt-get install -y ${missing[*]}"
  if [[ $(id -u) -eq 0 ]] && command -v apt-get >/dev/null; then
    install_packages "$MERISTEM_HOME/logs/apt.log" "${missing[@]}" || [[ ${#required[@]} -eq 0 ]] ||
      die 1 "could not install Debian packages; once they can be reached: $line"
  elif [[ ${#required[@]} -gt 0 ]]; then
    die 2 "Debian packages are missing. Install them, then repeat the command:  $line"
  else
    say "not needed, but of use (third_party/debian.txt):  $line"
  fi
  base_python >/dev/null || die 2 "no Python 3.11-3.14 with venv found: install one, or name one in PYTHON"
}
