#!/usr/bin/env bash
# Trains on a Cloud TPU pod slice, from creating it to deleting it.
#
#   export TPU_NAME=mplug2 ZONE=us-west4-a ACCELERATOR=v5litepod-256
#   export RUNTIME=v2-alpha-tpuv5-lite
#   launch/tpu_pod.sh create
#   launch/tpu_pod.sh install
#   launch/tpu_pod.sh run --config configs/pretrain_large.py --workdir /mnt/bucket/run
#   launch/tpu_pod.sh log                 the log again, from its beginning
#   launch/tpu_pod.sh delete
#   launch/tpu_pod.sh all --config ...    all of it, and again after a preemption
#
# `run` starts one process per worker and streams worker 0's log; what it was doing goes
# on if this connection breaks. `all` creates, installs and runs; if the slice is lost,
# it starts over, and training resumes from WORKDIR; at the end it deletes the slice.
# --dry-run as the first argument prints the commands instead.
#
# Variables (launch/README.md): TPU_NAME ZONE ACCELERATOR RUNTIME PROJECT SPOT
#                               RESTARTS PAUSE
set -euo pipefail
# shellcheck source=launch/dry_run.sh
source "$(dirname "${BASH_SOURCE[0]}")/dry_run.sh"

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
action=${1:-}
[[ $# -gt 0 ]] && shift
need TPU_NAME "a name for the slice"
need ZONE "a zone that has such TPUs"
PAUSE=${PAUSE:-30}
where=("--zone=$ZONE")
if [[ -n "${PROJECT:-}" ]]; then where+=("--project=$PROJECT"); fi

tpu() { run gcloud compute tpus tpu-vm "$1" "$TPU_NAME" "${where[@]}" "${@:2}"; }
on() { tpu ssh "--worker=$1" "--command=$2"; }

create() {
  need ACCELERATOR "the slice's type, for example v5litepod-256"
  need RUNTIME "the VM's image, for example v2-alpha-tpuv5-lite"
  local options=("--accelerator-type=$ACCELERATOR" "--version=$RUNTIME")
  if [[ -n "${SPOT:-}" ]]; then options+=(--spot); fi
  tpu create "${options[@]}"
}

install() {
  local archive=/tmp/mplug2.tar.gz
  [[ -n "$DRY_RUN" ]] || archive=$(mktemp -d)/mplug2.tar.gz
  run tar -C "$here" --exclude=.git --exclude=runs -czf "$archive" .
  run gcloud compute tpus tpu-vm scp "$archive" "$TPU_NAME:mplug2.tar.gz" \
    "${where[@]}" --worker=all
  on all "rm -rf mplug2 && mkdir mplug2 && tar -xzf mplug2.tar.gz -C mplug2 &&\
 python3 -m venv mplug2/.venv && mplug2/.venv/bin/pip install -q './mplug2[tpu]'"
  run rm "$archive"
}

# Every worker trains in the background and leaves its exit status in train.exit.
start() {
  local command
  command=$(printf '%q ' .venv/bin/python -m mplug2_jax train "$@")
  on all "cd mplug2 && rm -f train.exit && nohup bash -c '${command//\'/\'\\\'\'};\
 echo \$? > train.exit' > train.log 2>&1 < /dev/null & sleep 1"
}

# Streams the log until training ends; its status is training's.
log() {
  on 0 "cd mplug2 && until [ -e train.log ]; do sleep 1; done;\
 tail -n +1 -F train.log & tail=\$!;\
 until [ -e train.exit ]; do sleep 1; done; sleep 1; kill \$tail; exit \$(cat train.exit)"
}

state() {
  gcloud compute tpus tpu-vm describe "$TPU_NAME" "${where[@]}" \
    '--format=value(state)' 2>/dev/null || echo GONE
}

# The log once more after each broken connection, as long as the slice is there.
follow() {
  local status=0
  while true; do
    status=0
    log || status=$?
    [[ $status -eq 255 && "$(state)" == READY ]] || return "$status"
    sleep "$PAUSE"
  done
}

all() {
  local restarts=${RESTARTS:-100} status=0
  if [[ -n "$DRY_RUN" ]]; then
    create && install && start "$@" && log
    echo "# if the slice is lost: delete, and all of this again"
    tpu delete --quiet
    return
  fi
  for ((attempt = 0; attempt <= restarts; attempt++)); do
    status=0
    if { [[ "$(state)" == READY ]] || create; } && install && start "$@"; then
      follow || status=$?
      if [[ $status -eq 0 ]]; then break; fi
    fi
    if [[ "$(state)" == READY ]]; then
      echo "tpu_pod.sh: training failed with status $status; the slice is kept." >&2
      return "$((status ? status : 1))"
    fi
    echo "tpu_pod.sh: the slice is lost (attempt $attempt); starting over." >&2
    tpu delete --quiet || true
    sleep "$PAUSE"
  done
  tpu delete --quiet
  return "$status"
}

case "$action" in
  create) create ;;
  install) install ;;
  run) start "$@" && if [[ -n "$DRY_RUN" ]]; then log; else follow; fi ;;
  log) log ;;
  delete) tpu delete --quiet ;;
  all) all "$@" ;;
  *) fail "the action is '$action'; expected create, install, run, log, delete or all." ;;
esac
