#!/usr/bin/env bash
# Trains on GKE: fills in launch/gke_jobset.yaml and applies it.
#
#   export IMAGE=.../mplug2:tpu CLAIM=bucket ACCELERATOR=tpu-v5-lite-podslice
#   export TOPOLOGY=16x16 HOSTS=64 CHIPS=4
#   launch/gke.sh tpu --config /mplug2/configs/pretrain_large.py --workdir /shared/run
#   IMAGE=.../mplug2:cuda ACCELERATOR=nvidia-h100-80gb HOSTS=2 CHIPS=8 \
#       launch/gke.sh gpu --config ... --workdir /shared/run
#
# Training starts in MOUNT, where data/ is; the image's recipes are in /mplug2/configs.
# A JobSet of this name that has ended is deleted first; one that runs is left alone.
# --dry-run as the first argument prints the manifest and the command instead.
#
# Variables (launch/README.md): NAME IMAGE CLAIM MOUNT ACCELERATOR TOPOLOGY HOSTS CHIPS
#                               SLICES RESTARTS PYTHON
set -euo pipefail
# shellcheck source=launch/dry_run.sh
source "$(dirname "${BASH_SOURCE[0]}")/dry_run.sh"

kind=${1:-}
[[ "$kind" == tpu || "$kind" == gpu ]] || fail "the kind is '$kind'; expected tpu or gpu."
shift
need IMAGE "the image built from launch/Dockerfile"
need CLAIM "a claim of a volume that all workers share"
need ACCELERATOR "the nodes' accelerator"
need HOSTS "the number of hosts of a slice, or of GPU hosts"
need CHIPS "the number of chips or GPUs of a host"
if [[ "$kind" == tpu ]]; then need TOPOLOGY "the slice's shape, for example 16x16"; fi
export IMAGE CLAIM ACCELERATOR HOSTS CHIPS TOPOLOGY=${TOPOLOGY:-}
export NAME=${NAME:-mplug2} MOUNT=${MOUNT:-/shared} SLICES=${SLICES:-1}
export RESTARTS=${RESTARTS:-100}
WORKDIR=$(workdir "$@")
export WORKDIR
[[ "$WORKDIR" == "${MOUNT%/}"/?* ]] ||
  fail "--workdir is '$WORKDIR'; expected a folder below $MOUNT, where the claim is mounted."

# What a pod runs. Its first process gets only the signals that it traps, and a signal ends
# `wait`, not training. Stopped before the end is no success: the set shall restart.
# shellcheck disable=SC2016 # the pod's shell expands it
export TRAIN='mplug2 train "$@" &
trap "kill -TERM $!" TERM
while kill -0 $! 2>/dev/null; do wait $!; done
wait $! && [ -e "$WORKDIR/final" ]'

manifest=$("${PYTHON:-python}" - "$kind" \
  "$(dirname "${BASH_SOURCE[0]}")/gke_jobset.yaml" "$@" <<'PYTHON'
import json
import os
import re
import sys

kind, path, *arguments = sys.argv[1:]
values = {
    **os.environ,
    "ARGS": json.dumps(arguments),
    "TRAIN": json.dumps(os.environ["TRAIN"]),
}
with open(path) as file:
    documents = file.read().split("\n---\n")
chosen = documents[("tpu", "gpu").index(kind)]
chosen = "\n".join(line for line in chosen.splitlines() if not line.startswith("#"))
print(re.sub(r"\$\{(\w+)\}", lambda name: values[name[1]], chosen))
PYTHON
)
# Applied again, a set that has ended would stay so.
state=(kubectl get jobset "$NAME" --ignore-not-found
  "--output=jsonpath={.status.terminalState}")
delete=(kubectl delete jobset "$NAME" --cascade=foreground)
if [[ -n "$DRY_RUN" ]]; then
  echo "$manifest"
  echo "# if '${state[*]}' prints how a former set ended: ${delete[*]}"
  echo "# applied by: kubectl apply -f -"
else
  ended=$("${state[@]}")
  if [[ -n "$ended" ]]; then "${delete[@]}"; fi
  kubectl apply -f - <<<"$manifest"
fi
