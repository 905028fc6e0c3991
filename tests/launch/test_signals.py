"""A signal to a script or a pod reaches every training process, which is waited for.

The stand-in for training says that it is there, and needs a moment to save when it is
told to stop; after 20 seconds it ends by itself.
"""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

LAUNCH = Path(__file__).parents[2] / "launch"
TRAINING = r"""
index=${MPLUG2_PROCESS_INDEX:-0}
trap 'sleep 0.3; echo $$ > "$FAKE/saved$index"; exit $((index ? 0 : STATUS))' TERM
trap 'echo interrupted > "$FAKE/saved$index"; exit 130' INT
echo $$ > "$FAKE/training$index"
for _ in {1..400}; do sleep 0.05; done
"""
TRAIN = ("--config", "c.py", "--workdir", "run")


def signalled(command, number, fake, count=1, **options) -> int:
    """Sends a signal to a command once its processes are there: its status."""
    # Nothing waits for the ends of pipes that an orphan would keep open.
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    # In the background of a shell SIGINT is ignored, and so it is by all children.
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        process = subprocess.Popen(command, **quiet, **options)
    finally:
        signal.signal(signal.SIGINT, before)
    wait_for(lambda: len(list(fake.glob("training*"))) == count)
    process.send_signal(number)
    status = process.wait(30)
    for path in fake.glob("training*"):
        assert_gone(int(path.read_text()))
    return status


def wait_for(condition) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)


def assert_gone(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    pytest.fail(f"process {pid} was left behind")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_local_processes_save_and_are_waited_for(environment, stub, fake, number):
    its = {"PROCESSES": "3", "PYTHON": stub("training", TRAINING), "STATUS": "5"}
    command = ["bash", str(LAUNCH / "local.sh"), *TRAIN]
    assert signalled(command, number, fake, 3, env=environment | its) == 5
    assert len(list(fake.glob("saved*"))) == 3


@pytest.mark.parametrize("script", ["local.sh", "gpu_host.sh"])
@pytest.mark.parametrize(("number", "status"), [("TERM", 0), ("INT", 130)])
def test_a_single_process_gets_what_the_script_gets(
    environment, stub, fake, script, number, status
):
    stub("nvidia-smi", "")
    its = {"PYTHON": stub("training", TRAINING), "STATUS": "0"}
    command = ["bash", str(LAUNCH / script), *TRAIN]
    number = signal.Signals[f"SIG{number}"]
    assert signalled(command, number, fake, env=environment | its) == status
    assert (fake / "saved0").exists()


@pytest.fixture(params=["tpu", "gpu"])
def pod(request, launch, tmp_path):
    """What a container of the manifest runs, with the volume at `tmp_path`."""
    train = ("--config", "c.py", "--workdir", str(tmp_path / "a run"))
    names = ("IMAGE", "CLAIM", "ACCELERATOR", "TOPOLOGY", "HOSTS", "CHIPS")
    its = dict.fromkeys(names, "1") | {"MOUNT": str(tmp_path)}
    done = launch("gke.sh", "--dry-run", request.param, *train, **its)
    assert done.returncode == 0, done.stderr
    job = yaml.safe_load(done.stdout)["spec"]["replicatedJobs"][0]
    container = job["template"]["spec"]["template"]["spec"]["containers"][0]
    return {
        "args": [*container["command"], *container["args"]],
        "cwd": container["workingDir"],
        "env": {"WORKDIR": container["env"][0]["value"]},
    }


def test_a_pod_saves_and_does_not_succeed_before_the_end(pod, environment, stub, fake):
    stub("mplug2", TRAINING)
    pod["env"] |= environment | {"STATUS": "0"}
    command = pod.pop("args")
    assert signalled(command, signal.SIGTERM, fake, **pod) == 1
    assert (fake / "saved0").exists()


@pytest.mark.parametrize(("final", "status"), [(True, 0), (True, 3), (False, 0)])
def test_a_pod_succeeds_with_a_finished_training(pod, environment, stub, final, status):
    make = 'mkdir -p "$5/final"; ' if final else ""
    stub(
        "mplug2", f'[[ "$1 $2" == "train --config" ]] || exit 9\n{make}exit {status}\n'
    )
    pod["env"] |= environment
    expected = status or int(not final)
    assert subprocess.run(**pod, stdin=subprocess.DEVNULL).returncode == expected
