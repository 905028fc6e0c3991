"""The launch scripts, with stand-ins for the programs of clouds and clusters."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"

# Two workers are two folders; a command on a worker runs in its folder. If there is a
# file `fate` when the log is read, the connection breaks and the slice's state is what
# the file says; `silence` becomes `hiccups`. As many of the next questions get no
# answer as `hiccups` has lines, as many copies fail as `breaks` has, and nothing is
# created if there is a `refusal`.
GCLOUD = r"""#!/usr/bin/env bash
echo "gcloud $*" >> "$FAKE/calls"
action=$4
worker=all
for argument in "$@"; do
  case "$argument" in
    --worker=*) worker=${argument#--worker=} ;;
    --command=*) command=${argument#--command=} ;;
  esac
done
case "$action" in
  create)
    if [[ -e "$FAKE/refusal" ]]; then cat "$FAKE/refusal" >&2; exit 1; fi
    mkdir -p "$FAKE/w0" "$FAKE/w1"; echo READY > "$FAKE/state" ;;
  delete) rm -rf "$FAKE/w0" "$FAKE/w1" "$FAKE/state" ;;
  describe)
    if [[ -s "$FAKE/hiccups" ]]; then
      echo "ERROR: (gcloud) $(head -n 1 "$FAKE/hiccups")" >&2
      sed -i 1d "$FAKE/hiccups"
      exit 1
    fi
    [[ -e "$FAKE/state" ]] || { echo "ERROR: (gcloud) NOT_FOUND: no $5" >&2; exit 1; }
    cat "$FAKE/state" ;;
  scp)
    if [[ -s "$FAKE/breaks" ]]; then sed -i 1d "$FAKE/breaks"; exit 255; fi
    for w in 0 1; do cp "$5" "$FAKE/w$w/mplug2.tar.gz"; done ;;
  ssh)
    if [[ "$command" == *tail* && -e "$FAKE/fate" ]]; then
      # What ran on a lost slice has ended.
      until grep -q READY "$FAKE/fate" ||
        [[ -e "$FAKE/w0/mplug2/train.exit" && -e "$FAKE/w1/mplug2/train.exit" ]]; do
        sleep 0.1
      done
      mv "$FAKE/fate" "$FAKE/state"
      [[ ! -e "$FAKE/silence" ]] || mv "$FAKE/silence" "$FAKE/hiccups"
      exit 255
    fi
    export MPLUG2_PROCESSES=2 MPLUG2_COORDINATOR=127.0.0.1:$PORT
    pids=()
    for w in 0 1; do
      [[ "$worker" == all || "$worker" == "$w" ]] || continue
      (cd "$FAKE/w$w" && MPLUG2_PROCESS_INDEX=$w bash -c "$command") &
      pids+=($!)
    done
    status=0
    for pid in "${pids[@]}"; do wait "$pid" || status=$?; done
    exit $status ;;
esac
"""
# Two tasks on this host, with the variables that Slurm gives them.
SRUN = r"""#!/usr/bin/env bash
while [[ "$1" == --* ]]; do
  echo "$1" >> "$FAKE/srun"
  shift
done
export SLURM_JOB_ID=$JOB SLURM_NTASKS=2 SLURM_STEP_NODELIST=localhost
export SLURM_STEP_NUM_NODES=1
pids=()
for task in 0 1; do
  SLURM_PROCID=$task SLURM_LOCALID=$task "$@" &
  pids+=($!)
done
status=0
for pid in "${pids[@]}"; do wait "$pid" || status=$?; done
exit $status
"""
# A worker's Python 3.10: `-m pip` and `-m uv` do nothing, but `-m uv venv ... DIR`
# makes DIR/bin/python.
PYTHON3 = r"""#!/usr/bin/env bash
echo "$*" >> "$FAKE/python3"
case "$2 $3" in
  "pip install" | "uv pip") ;;
  "uv venv") mkdir -p "${!#}/bin"; cp "$STUBS/member" "${!#}/bin/python" ;;
  *) exit 3 ;;
esac
"""
RECORD = '#!/usr/bin/env bash\necho "$(basename "$0") $*" >> "$FAKE/calls"\ncat || :\n'


@pytest.fixture
def environment(tmp_path):
    """Variables for scripts: stand-ins come first on PATH, nothing real is called."""
    stubs, fake = tmp_path / "stubs", tmp_path / "fake"
    stubs.mkdir()
    fake.mkdir()
    # On a slice that is about to be lost nothing is done.
    member = (
        '#!/usr/bin/env bash\n[[ ! -e "$FAKE/fate" ]] || exit 1\n'
        "export LAUNCHED_ON=$JAX_PLATFORMS JAX_PLATFORMS=cpu\n"
        f'exec "{sys.executable}" "{Path(__file__).parent}/member.py" "${{@:4}}"\n'
    )
    programs = {"gcloud": GCLOUD, "srun": SRUN, "python3": PYTHON3, "member": member}
    programs |= dict.fromkeys(("scontrol", "kubectl"), RECORD)
    for name, text in programs.items():
        (stubs / name).write_text(text)
        (stubs / name).chmod(0o755)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    keep = {k: v for k, v in os.environ.items() if k in ("HOME", "LANG", "TMPDIR")}
    return keep | {
        "PATH": f"{stubs}:/usr/local/bin:/usr/bin:/bin",
        "PYTHONPATH": str(ROOT),
        "STUBS": str(stubs),
        "FAKE": str(fake),
        "PORT": str(port),
        "JOB": str(os.getpid()),
        "PYTHON": sys.executable,
        "MPLUG2_HEARTBEAT_SECONDS": "20",
        "MPLUG2_JOIN_SECONDS": "60",
        "PAUSE": "0",
    }


@pytest.fixture
def fake(environment):
    """Where stand-ins keep what they were told."""
    return Path(environment["FAKE"])


@pytest.fixture
def stub(environment):
    """Puts a stand-in, a bash script, first on PATH: its path."""

    def write(name, text):
        path = Path(environment["STUBS"]) / name
        path.write_text(f"#!/usr/bin/env bash\n{text}")
        path.chmod(0o755)
        return str(path)

    return write


@pytest.fixture
def launch(environment):
    """Runs a script: its completed process, with text."""

    def run(script, *arguments, **variables):
        return subprocess.run(
            ["bash", str(LAUNCH / script), *map(str, arguments)],
            env=environment | variables,
            capture_output=True,
            text=True,
            timeout=180,
            stdin=subprocess.DEVNULL,
        )

    return run
