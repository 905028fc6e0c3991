# shellcheck shell=bash
# Sourced by the other scripts: with --dry-run first, `run` prints instead of running.

DRY_RUN=""
if [[ "${1:-}" == "--dry-run" ]]; then
  DRY_RUN=1
  shift
fi

# Prints a command so that it can be pasted, or runs it.
run() {
  if [[ -n "$DRY_RUN" ]]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

# Becomes a command with variables, which so gets the signals that are sent to the shell:
# become NAME=VALUE ... -- COMMAND ...
become() {
  local variables=()
  while [[ "$1" != "--" ]]; do
    variables+=("$1")
    shift
  done
  shift
  set -- env ${variables[@]+"${variables[@]}"} "$@"
  [[ -n "$DRY_RUN" ]] || exec "$@"
  run "$@"
}

# The folder that the training arguments name.
workdir() {
  local found=""
  while [[ $# -gt 0 ]]; do
    case "$1" in
      --workdir) found=${2:-} ;;
      --workdir=*) found=${1#--workdir=} ;;
    esac
    shift
  done
  [[ -n "$found" ]] || fail "--workdir is missing; give a folder that all hosts see."
  echo "$found"
}

# Stops with one sentence.
fail() {
  echo "$(basename "$0"): $1" >&2
  exit 2
}

# need NAME WHAT: stops if the variable is empty.
need() {
  [[ -n "${!1:-}" ]] || fail "$1 is not set; give it $2 (see launch/README.md)."
}
