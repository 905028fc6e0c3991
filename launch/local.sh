#!/usr/bin/env bash
# Trains on this machine's CPU, or on whatever JAX finds.
#
#   launch/local.sh --config configs/pretrain_shapes.py --workdir runs/shapes
#   DEVICES=8 launch/local.sh --config ... --config.mesh.fsdp=8     simulated devices
#   PROCESSES=2 DEVICES=2 launch/local.sh --config ...              processes, loopback
#
# Variables (launch/README.md): PYTHON DEVICES PROCESSES PORT
set -euo pipefail
# shellcheck source=launch/dry_run.sh
source "$(dirname "${BASH_SOURCE[0]}")/dry_run.sh"

PYTHON=${PYTHON:-python}
PROCESSES=${PROCESSES:-1}
PORT=${PORT:-8476}
[[ $# -gt 0 ]] || fail "there are no arguments; expected --config FILE.py --workdir DIR."
[[ "$PROCESSES" =~ ^[1-9][0-9]*$ ]] || fail "PROCESSES is $PROCESSES; expected 1 or more."

common=()
if [[ -n "${DEVICES:-}" ]]; then
  flag="--xla_force_host_platform_device_count=$DEVICES"
  common=(JAX_PLATFORMS=cpu "XLA_FLAGS=${XLA_FLAGS:+$XLA_FLAGS }$flag")
fi

if [[ "$PROCESSES" == 1 ]]; then
  become ${common[@]+"${common[@]}"} -- "$PYTHON" -m mplug2_jax train "$@"
  exit
fi

if [[ -z "$DRY_RUN" ]] && (: <> "/dev/tcp/127.0.0.1/$PORT") 2>/dev/null; then
  fail "port $PORT is in use; end what listens there, or set PORT to another."
fi

# Processes in the background do not hear Ctrl-C: all get SIGTERM instead.
pids=()
trap 'kill -TERM ${pids[@]+"${pids[@]}"} 2>/dev/null || true' INT TERM
for ((index = 0; index < PROCESSES; index++)); do
  if [[ -n "$DRY_RUN" ]]; then printf '# process %s, in the background\n' "$index"; fi
  become ${common[@]+"${common[@]}"} \
    "MPLUG2_COORDINATOR=127.0.0.1:$PORT" \
    "MPLUG2_PROCESSES=$PROCESSES" \
    "MPLUG2_PROCESS_INDEX=$index" \
    -- "$PYTHON" -m mplug2_jax train "$@" &
  pids+=($!)
  [[ -z "$DRY_RUN" ]] || wait "${pids[-1]}"
done
status=0
for pid in "${pids[@]}"; do
  # A signal ends `wait`, not the process.
  while kill -0 "$pid" 2>/dev/null; do wait "$pid" || true; done
  wait "$pid" || status=$?
done
exit "$status"
