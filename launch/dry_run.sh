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

# The same with variables: with_env NAME=VALUE ... -- COMMAND ...
with_env() {
  local variables=()
  while [[ "$1" != "--" ]]; do
    variables+=("$1")
    shift
  done
  shift
  run env ${variables[@]+"${variables[@]}"} "$@"
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
