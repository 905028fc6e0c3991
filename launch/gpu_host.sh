#!/usr/bin/env bash
# Trains on all GPUs of this host: one process drives them all.
#
#   launch/gpu_host.sh --config configs/msrvtt_qa.py --workdir runs/qa \
#       --config.mesh.fsdp=8
#   GPUS=0,1 launch/gpu_host.sh ...
#
# Variables (launch/README.md): PYTHON GPUS MEMORY_SHARE
set -euo pipefail
# shellcheck source=launch/dry_run.sh
source "$(dirname "${BASH_SOURCE[0]}")/dry_run.sh"

[[ $# -gt 0 ]] || fail "there are no arguments; expected --config FILE.py --workdir DIR."
if [[ -z "$DRY_RUN" ]] && ! nvidia-smi -L >&2; then
  fail "there is no GPU here (nvidia-smi fails); use launch/local.sh on a CPU."
fi
variables=(
  JAX_PLATFORMS=cuda
  "XLA_PYTHON_CLIENT_MEM_FRACTION=${MEMORY_SHARE:-0.92}"
)
if [[ -n "${GPUS:-}" ]]; then variables+=("CUDA_VISIBLE_DEVICES=$GPUS"); fi
become "${variables[@]}" -- "${PYTHON:-python}" -m mplug2_jax train "$@"
