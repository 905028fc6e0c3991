#!/usr/bin/env bash
# One GPU in under nine minutes: tests, fine-tuning beside PyTorch, decoding.
#
#     benchmarks/gpu.sh [--rehearse] [--output DIRECTORY]
#
# Needs no network; of Python JAX and PyTorch, both with CUDA, flax, optax and pytest
# (PYTHON names the interpreter). Without a GPU, or with --rehearse, all of it runs on
# the CPU at tiny size, to try the script. Each part is a process with a time limit; one
# that fails loses nothing but itself. The directory (default: runs/gpu) gets a log
# of each part, results.jsonl and table.md. Exits with 1 if a part failed.
set -uo pipefail
cd "$(dirname "$0")/.." || exit

python=${PYTHON:-python3} output=runs/gpu rehearse=''
while (($#)); do
  case $1 in
    --rehearse) rehearse=1 ;;
    --output) output=${2:?"--output needs a directory"} && shift ;;
    *) echo "Unknown argument $1; expected --rehearse, --output DIRECTORY." >&2; exit 2 ;;
  esac
  shift
done
results=$output/results.jsonl
mkdir -p "$output" && : >"$results" || exit
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1 TF_CPP_MIN_LOG_LEVEL=2
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$output/cache}

failed=0
part() { # name, seconds at most, command
  local name=$1 limit=$2 start=$SECONDS
  shift 2
  echo "== $name (at most $limit s)"
  if timeout --kill-after=5 "$limit" "$@" >"$output/$name.log" 2>&1; then
    tail -n 1 "$output/$name.log"
    echo "== $name took $((SECONDS - start)) s"
  else
    tail -n 15 "$output/$name.log"
    echo "== $name FAILED after $((SECONDS - start)) s; see $output/$name.log"
    failed=1
  fi
}

finish() {
  JAX_PLATFORMS=cpu "$python" benchmarks/gpu.py table "${small[@]}" \
    --results "$results" | tee "$output/table.md" || failed=1
  exit "$failed"
}

gpu() { "$python" -c 'import jax; print(jax.devices("cuda")[0].device_kind)'; }

# cuBLAS multiplies all matrices: to try Triton's kernels too would take minutes.
export XLA_FLAGS=${XLA_FLAGS-"--xla_gpu_enable_triton_gemm=false"}
if [[ -z $rehearse ]] && ! gpu 2>"$output/gpu.log"; then
  unset XLA_FLAGS # another version of JAX may not know the flag
  gpu 2>"$output/gpu.log" || { tail -n 1 "$output/gpu.log" && rehearse=1; }
fi
[[ -z $rehearse ]] || echo "Rehearsing on the CPU."
small=() captions=(--frames 16 --batch 16 --dtype bfloat16) choice=(-m gpu) remats=(dots full) jax=cuda,cpu
if [[ -n $rehearse ]]; then
  small=(--size tiny --layers 1 --frames 3 --batch 2 --seconds 0.1)
  captions=(--size tiny --tokens 4)
  choice=(--collect-only) remats=(dots) jax=cpu
  export OMP_NUM_THREADS=1 # the arrays are tiny
fi
trap finish EXIT

# One framework at a time has the card. JAX takes most of it at once, as in training.
export XLA_CLIENT_MEM_FRACTION=0.92
measure=("$python" benchmarks/gpu.py --results "$results" "${small[@]}")
part pytorch 150 env JAX_PLATFORMS=cpu "${measure[@]}" pytorch
# Without remat our layers' loop keeps, and copies, several times the memory.
for remat in "${remats[@]}"; do
  part "train_$remat" 95 env JAX_PLATFORMS=$jax "${measure[@]}" train --remat "$remat"
done
part decode 90 env JAX_PLATFORMS=$jax "$python" benchmarks/decode.py --results "$results" \
  "${captions[@]}"
part tests 80 env JAX_PLATFORMS=$jax "$python" -m pytest -q "${choice[@]}" \
  -p no:xdist -p no:cacheprovider -o addopts=--import-mode=importlib tests/gpu
