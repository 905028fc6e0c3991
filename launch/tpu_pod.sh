#!/usr/bin/env bash
# Trains on a Cloud TPU pod slice, from creating it to deleting it.
#
#   export TPU_NAME=mplug2 ZONE=us-west4-a ACCELERATOR=v5litepod-256
#   export RUNTIME=v2-alpha-tpuv5-lite SETUP='...'       mounts a bucket: see README.md
#   launch/tpu_pod.sh create
#   launch/tpu_pod.sh install
#   launch/tpu_pod.sh run --config configs/pretrain_large.py --workdir /mnt/bucket/run
#   launch/tpu_pod.sh log                 the log again, from its beginning
#   launch/tpu_pod.sh delete
#   launch/tpu_pod.sh all --config ...    all of it, and again after a preemption
#
# `run` starts one process per worker and streams worker 0's log; what it was doing goes
# on if this connection breaks, and `run` or `all` take up the log again. `all` creates,
# installs and runs; if training stops before the end or the slice is lost, it starts
# over, and training resumes from WORKDIR; at the end it deletes the slice. The status is
# training's: 75 if it stopped before the end, 70 where Python's is 1; or 69 if it could
# not be started, 2 if gcloud refuses what the variables ask for.
# --dry-run as the first argument prints the commands instead.
#
# Variables (launch/README.md): TPU_NAME ZONE ACCELERATOR RUNTIME PROJECT SPOT
#                               SETUP RESTARTS PAUSE
set -euo pipefail
# shellcheck source=launch/dry_run.sh
source "$(dirname "${BASH_SOURCE[0]}")/dry_run.sh"

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# What pip needs, and the recipes.
packed=(mplug2_jax configs pyproject.toml requirements.txt README.md LICENSE)
action=${1:-}
[[ $# -gt 0 ]] && shift
need TPU_NAME "a name for the slice"
need ZONE "a zone that has such TPUs"
if [[ "$action" == create || "$action" == all ]]; then
  need ACCELERATOR "the slice's type, for example v5litepod-256"
  need RUNTIME "the VM's image, for example v2-alpha-tpuv5-lite"
fi
if [[ "$action" == run || "$action" == all ]]; then
  WORKDIR=$(workdir "$@")
  [[ "$WORKDIR" == /* ]] || fail "--workdir is '$WORKDIR'; expected an absolute path in\
 what all workers see, for example a bucket that SETUP mounts."
fi
[[ -n "$DRY_RUN" ]] || command -v gcloud > /dev/null ||
  fail "there is no gcloud here; install the Google Cloud CLI."
PAUSE=${PAUSE:-30}
where=("--zone=$ZONE")
if [[ -n "${PROJECT:-}" ]]; then where+=("--project=$PROJECT"); fi

LOST=74    # a process or a file system, or what a signal leaves, is at least this
STOPPED=75 # training ended well, but before its last step
FAILED=70  # instead of 1 and 255, with which gcloud itself fails
UNSTARTED=69
# What gcloud says, by name or by number, if asking again would not help.
REFUSED='INVALID_ARGUMENT|NOT_FOUND|PERMISSION_DENIED|"code": [357],'
# On a worker: who trains or installs holds this lock as long as it lives.
ALONE="exec 9> mplug2.lock && { flock -w $PAUSE 9 ||\
 { echo 'a training is under way on this worker; see tpu_pod.sh log' >&2; exit 1; }; }"

tpu() { run gcloud compute tpus tpu-vm "$1" "$TPU_NAME" "${where[@]}" "${@:2}"; }
on() { tpu ssh "--worker=$1" "--command=$2"; }

create() {
  local options=("--accelerator-type=$ACCELERATOR" "--version=$RUNTIME")
  if [[ -n "${SPOT:-}" ]]; then options+=(--spot); fi
  tpu create "${options[@]}"
}

stop_if_refused() {
  if [[ "$1" =~ $REFUSED ]]; then fail "gcloud refuses, and would again: $1"; fi
}

# Creates the slice, or ends here if there can be none.
obtain() {
  local said status=0
  { said=$(create 2>&1 >&3) || status=$?; } 3>&1
  if [[ $status -ne 0 ]]; then stop_if_refused "$said"; fi
  if [[ -n "$said" ]]; then echo "$said" >&2; fi
  return "$status"
}

# The images have Python 3.10 and maybe no venv: uv brings a Python that is new enough.
# A bucket mounted into the old folder must not be emptied (--one-file-system).
install() {
  local archive=/tmp/mplug2.tar.gz
  [[ -n "$DRY_RUN" ]] || archive=$(mktemp -d)/mplug2.tar.gz
  run tar -C "$here" --exclude=__pycache__ -czf "$archive" "${packed[@]}" &&
    run gcloud compute tpus tpu-vm scp "$archive" "$TPU_NAME:mplug2.tar.gz" \
      "${where[@]}" --worker=all &&
    run rm "$archive" &&
    on all "$ALONE && rm -rf --one-file-system mplug2 && mkdir mplug2 &&\
 tar -xzf mplug2.tar.gz -C mplug2 &&\
 PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install -q --user uv &&\
 python3 -m uv venv -q --python 3.12 mplug2/.venv &&\
 python3 -m uv pip install -q --python mplug2/.venv './mplug2[tpu]'" &&
    if [[ -n "${SETUP:-}" ]]; then on all "cd mplug2 || exit; $SETUP"; fi
}

# Every worker trains in the background and leaves its exit status in train.exit.
start() {
  local train final
  printf -v train '%q ' env JAX_PLATFORMS=tpu .venv/bin/python -m mplug2_jax train "$@"
  printf -v final '%q' "$WORKDIR/final"
  on all "$ALONE && cd mplug2 && rm -f train.exit || exit; trap '' HUP;\
 { $train && { [ -e $final ] || (exit $STOPPED); }; status=\$?;\
 case \$status in 1 | 255) status=$FAILED ;; esac;\
 echo \$status > train.exit; } > train.log 2>&1 < /dev/null &"
}

# Streams the log until training ends; its status is training's, or gcloud's 1 or 255.
log() {
  on 0 "cd mplug2 || exit $STOPPED; tail -n +1 -F train.log &\
 flock -s ../mplug2.lock sleep 1; kill \$!; exit \$(cat train.exit || echo $STOPPED)"
}

# Whether training is under way. No answer means no: `install` and `start` look again.
busy() {
  [[ -z "$DRY_RUN" ]] || return 1
  [[ "$(on 0 'flock -n mplug2.lock true || echo busy')" == *busy* ]] || return 1
  echo "tpu_pod.sh: a training is under way on the slice; here is its log." >&2
}

# Whether the slice is there and works; asks until there is an answer.
ready() {
  local answer
  [[ -z "$DRY_RUN" ]] || return 1
  until answer=$(tpu describe '--format=value(state)' 2>&1); do
    if [[ "$answer" == *NOT_FOUND* ]]; then return 1; fi
    stop_if_refused "$answer"
    echo "tpu_pod.sh: no answer about the slice, asking again: $answer" >&2
    sleep "$PAUSE"
  done
  [[ "$answer" == *READY* ]]
}

# The log once more after each broken connection, as long as the slice is there.
follow() {
  local status
  while true; do
    status=0
    log || status=$?
    if [[ $status -ne 1 && $status -ne 255 ]] || ! ready; then return "$status"; fi
    sleep "$PAUSE"
  done
}

# Of connections to many workers one may fail, so it is tried again.
begin() {
  local try
  for try in 1 2 3; do
    if busy || { install && start "$@"; }; then return; fi
    ready || break
    echo "tpu_pod.sh: installing or starting failed (try $try of 3)." >&2
    sleep "$PAUSE"
  done
  return "$UNSTARTED"
}

once() { { ready || obtain; } && begin "$@" && follow; }

all() {
  local restarts=${RESTARTS:-100} attempt status
  for ((attempt = 0; attempt <= restarts; attempt++)); do
    status=0
    once "$@" || status=$?
    if [[ $status -eq 0 ]]; then break; fi
    if ! ready; then
      echo "tpu_pod.sh: there is no slice (attempt $attempt); starting over." >&2
      tpu delete --quiet || true
    elif [[ $status -eq $STOPPED ]]; then
      echo "tpu_pod.sh: stopped before the end (attempt $attempt); going on." >&2
    elif [[ $status -ge $LOST ]]; then
      echo "tpu_pod.sh: training ended with status $status (attempt $attempt); going on." >&2
    elif [[ $status -eq $UNSTARTED ]]; then
      echo "tpu_pod.sh: training could not be started; the slice is kept." >&2
      return "$status"
    else
      echo "tpu_pod.sh: training failed with status $status; the slice is kept." >&2
      return "$status"
    fi
    sleep "$PAUSE"
  done
  tpu delete --quiet
  return "$status"
}

case "$action" in
  create) create ;;
  install) install ;;
  run) { busy || start "$@"; } && follow ;;
  log) log ;;
  delete) tpu delete --quiet ;;
  all) all "$@" ;;
  *) fail "the action is '$action'; expected create, install, run, log, delete or all." ;;
esac
