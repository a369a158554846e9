#!/usr/bin/env bash
# empty_root.sh PACK PYTHON: rehearses a folder of scripts/gpu_pack in a root that holds nothing but bash, coreutils, the C and C++ libraries, and
# that Python with LibTorch, as a bare machine does. Whatever else a program needs is then missing. Says why where such a root cannot be made.
set -euo pipefail
pack=$(cd "$1" && pwd) python=$2

if ! refused=$(unshare --user --map-root-user --mount --pid --fork true 2>&1); then
  echo "gpu_pack: not rehearsed in an empty root: $refused"
  exit 0
fi
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
prefix=$("$python" -c 'import sys; print(sys.base_prefix)') venv=$("$python" -c 'import sys; print(sys.prefix)')
tools=(bash sh dirname readlink env cat sleep sed ls mkdir rm)

# A file at its own path in the root, with the libraries that it needs.
copied=()
bring() {
  local path
  for path in "$@"; do
    mkdir -p "$root$(dirname "$path")"
    [[ -e $root$path ]] || cp -L "$path" "$root$path"
  done
}
libraries_of() { ldd "$@" 2>/dev/null | awk '$2 == "=>" && $3 ~ "^/" { print $3 } $1 ~ "^/lib" { print $1 }' | grep -v -e "^$prefix" -e "^$venv" | sort -u; }

mkdir -p "$root"/{bin,tmp,dev,proc,pack,out} "$root$prefix" "$root$venv"
for tool in "${tools[@]}"; do
  copied+=("$(command -v "$tool")")
  cp -L "$(command -v "$tool")" "$root/bin/$tool"
done
# What Python and LibTorch need of the system; of the programs themselves the C++ library alone.
mapfile -t needed < <(libraries_of "${copied[@]}" "$prefix"/bin/python3 "$prefix"/lib/python3*/lib-dynload/*.so "$venv"/lib/python3*/site-packages/torch/lib/libtorch_cuda.so)
bring "${needed[@]}" $(libraries_of "$pack"/programs/* | grep -E '/lib(c|m|dl|rt|pthread|stdc\+\+|gcc_s)\.so')
for device in null zero full urandom; do : >"$root/dev/$device"; done

inside='set -e
for folder in "$2" "$3"; do mount --bind "$folder" "$1$folder"; done
mount --bind "$4" "$1/pack"
for device in null zero full urandom; do mount --bind "/dev/$device" "$1/dev/$device"; done
mount -t proc proc "$1/proc"
exec chroot "$1" /bin/env -i PATH=/bin HOME=/tmp "MERISTEM_PYTHON=$5" OMP_NUM_THREADS=1 /bin/bash /pack/scripts/gpu_check --rehearse --out /out --minutes 5 \
  --only "conformance tests operators step_30M sanitizer depth_steps"'
echo "rehearsed in an empty root, with $((${#needed[@]} + ${#tools[@]})) files of the system"
unshare --user --map-root-user --mount --pid --fork bash -c "$inside" _ "$root" "$prefix" "$venv" "$pack" "$python" || {
  echo "gpu_pack: error: the rehearsal in an empty root failed" >&2
  exit 1
}
