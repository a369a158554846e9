# The parts of scripts/gpu_check that need a GPU, in the order of their worth. Uses root, build, out, python, and scripts/lib/sections.sh.

# Each test through compute-sanitizer, in the tools that have something to say about it.
sanitizer=$(command -v compute-sanitizer || true)
sanitize() { # BUDGET
  if [[ -z $sanitizer ]]; then
    skip_section sanitizer "compute-sanitizer is not on this machine"
    return
  fi
  section sanitizer "$1" bash "$root/scripts/lib/sanitize.sh" "$sanitizer" "$build" "$out"
}

# Ours by our own kernels, which `auto` does not pick before they are proven here.
step() { # NAME BUDGET COMPARE_ARGUMENTS…
  local name=$1 budget=$2
  shift 2
  section "$name" "$budget" "$python" "$root/scripts/bench/compare.py" --binary "$build/bin/meristem-bench" --device cuda --precisions bf16 \
    --kernels fused --idle 10 \
    --json "$out/$name.json" "$@"
}

run_parts() {
  section tests 70 ctest --test-dir "$build" -L '^gpu$' --no-tests=error -V --output-junit "$out/tests.xml"
  section ranks 40 ctest --test-dir "$build" -L '^gpu_ranks$' --no-tests=error --output-on-failure --output-junit "$out/ranks.xml"
  section operators 90 bash -c '"$1"/bin/meristem-bench operators --seconds-each 0.7 >"$2"/operators.jsonl' _ "$build" "$out"
  # Graph against plain at a size where launches are the cost; whole steps against the compiled peer where arithmetic is.
  step step_30M 25 --ours graph eager --modes --layers 6 --width 384 --inner 1024 --heads 6 --kv-heads 6 --vocab 32000 --sequence 1024 \
    --batch 8 --warmup 10 --rounds 100
  step step_124M 75 --ours graph eager --modes eager compile --layers 12 --width 768 --inner 2048 --heads 12 --kv-heads 12 --vocab 50304 --sequence 1024 \
    --batch 16 --warmup 6 --rounds 60
  step step_1.7B 90 --modes compile --layers 24 --width 2048 --inner 8192 --heads 32 --kv-heads 32 --vocab 49152 --sequence 2048 \
    --batch 2 --warmup 4 --rounds 15
  step step_360M 90 --modes compile --layers 32 --width 960 --inner 2560 --heads 15 --kv-heads 5 --vocab 49152 --sequence 2048 \
    --batch 4 --warmup 4 --rounds 20
  section depth_steps 40 bash -c 'MERISTEM_BENCH="$1/bin/meristem-bench" "$2" "$3/scripts/bench/depth_costs.py" --gpu --rounds 20 >"$4/depth_steps.jsonl"' _ \
    "$build" "$python" "$root" "$out"
  sanitize 60
  # The rest of the build, and the tests that need no GPU, as they are where CUDA is linked.
  section other_tests 150 bash -c 'cmake --build "$1" --parallel >"$2/build_all.log" 2>&1 &&
    ctest --test-dir "$1" -LE "^(gpu|gpu_ranks|long)\$" --parallel "$(nproc)" --output-on-failure --output-junit "$2/other_tests.xml"' _ "$build" "$out"
}
