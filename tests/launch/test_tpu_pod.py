"""What tpu_pod.sh does with a slice, played by two folders (see conftest.py)."""

import json
import shlex
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"
POD = {
    "TPU_NAME": "slice",
    "ZONE": "zone",
    "ACCELERATOR": "v5litepod-16",
    "RUNTIME": "image",
}
# Training in place of a worker's Python: says that it is there, then does what follows.
MEMBER = 'echo "$JAX_PLATFORMS" >> "$FAKE/starts$MPLUG2_PROCESS_INDEX"\nworkdir=$7\n'


@pytest.fixture
def train(tmp_path):
    return ("--config", "configs/it's.py", "--workdir", str(tmp_path / "a run"))


@pytest.fixture
def calls(fake):
    """How often gcloud was told to do something to the slice."""

    def count(action):
        lines = (fake / "calls").read_text().splitlines()
        return [line.split()[4] for line in lines].count(action)

    return count


def test_dry_run_prints_all_without_calling_anything(launch, fake, train):
    its = POD | {"SPOT": "1", "SETUP": "mount it"}
    done = launch("tpu_pod.sh", "--dry-run", "all", *train, **its)
    assert done.returncode == 0, done.stderr
    found = [shlex.split(line) for line in done.stdout.splitlines()]
    found = [command for command in found if command[0] == "gcloud"]
    actions = ["create", "scp", "ssh", "ssh", "ssh", "ssh", "delete"]
    assert [command[4] for command in found] == actions
    assert {"--spot", "--accelerator-type=v5litepod-16"} <= set(found[0])
    assert found[3][-1] == "--command=cd mplug2 || exit; mount it"
    assert not (fake / "calls").exists()


def test_unknown_action(launch):
    done = launch("tpu_pod.sh", "start", **POD)
    assert done.returncode == 2
    assert "expected create, install, run, log, delete or all" in done.stderr


def test_gcloud_is_missing(launch, tmp_path):
    for name in ("bash", "dirname", "basename"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    done = launch("tpu_pod.sh", "log", **POD, PATH=str(tmp_path))
    assert done.returncode == 2
    assert "install the Google Cloud CLI" in done.stderr


@pytest.mark.parametrize("workdir", ["gs://bucket/run", "runs/a"])
def test_workdir_must_outlive_the_slice(launch, fake, workdir):
    done = launch("tpu_pod.sh", "all", "--config", "c", "--workdir", workdir, **POD)
    assert done.returncode == 2
    assert "expected an absolute path" in done.stderr
    assert not (fake / "calls").exists()


def test_install_packs_the_project_and_sets_workers_up(launch, fake):
    assert launch("tpu_pod.sh", "create", **POD).returncode == 0
    setup = 'mkdir -p bucket/data; ln -sfn "$PWD/bucket/data" data'
    done = launch("tpu_pod.sh", "install", SETUP=setup, **POD)
    assert done.returncode == 0, done.stderr
    with tarfile.open(fake / "w0" / "mplug2.tar.gz") as archive:
        names = archive.getnames()
    assert {name.split("/")[0] for name in names} == {
        *("mplug2_jax", "configs", "pyproject.toml", "requirements.txt"),
        *("README.md", "LICENSE"),
    }
    assert not [name for name in names if "__pycache__" in name]
    python = (fake / "python3").read_text().splitlines()
    assert "-m uv venv -q --python 3.12 mplug2/.venv" in python
    assert "-m uv pip install -q --python mplug2/.venv ./mplug2[tpu]" in python
    assert (fake / "w0/mplug2/data").is_dir() and (fake / "w1/mplug2/data").is_dir()
    assert launch("tpu_pod.sh", "install", SETUP="exit 4", **POD).returncode == 4


@pytest.mark.slow
def test_trains_and_starts_over_after_preemption(launch, fake, calls, train):
    (fake / "fate").write_text("PREEMPTED\n")
    done = launch("tpu_pod.sh", "all", *train, **POD)
    assert done.returncode == 0, done.stderr
    assert calls("create") == calls("delete") == 2
    assert "starting over" in done.stderr
    assert "step 1 of 1 on process 0" in done.stdout
    paths = sorted(Path(train[-1]).glob("member*"))
    found = [json.loads(path.read_text()) for path in paths]
    assert [member["indices"] for member in found] == [[0, 1]] * 2
    assert found[1]["arguments"] == list(train)
    assert found[1]["platform"] == "tpu"


@pytest.mark.parametrize(("reported", "expected"), [(2, 2), (1, 70), (255, 70)])
def test_reports_the_status_of_a_failed_training(
    launch, stub, fake, train, reported, expected
):
    stub("member", f"echo no such config\nexit {reported}\n")
    done = launch("tpu_pod.sh", "all", *train, **POD)
    assert done.returncode == expected
    assert "the slice is kept" in done.stderr
    assert (fake / "state").read_text() == "READY\n"


@pytest.mark.parametrize("lost", [74, 137])
def test_goes_on_after_a_lost_process(launch, stub, calls, train, lost):
    starts = '"$FAKE/starts$MPLUG2_PROCESS_INDEX"'
    again = (
        f'[[ $(wc -l < {starts}) == 2 ]] || exit {lost}\nmkdir -p "$workdir/final"\n'
    )
    stub("member", f"{MEMBER}{again}")
    done = launch("tpu_pod.sh", "all", *train, **POD)
    assert done.returncode == 0, done.stderr
    assert f"ended with status {lost} (attempt 0); going on" in done.stderr
    assert calls("create") == 1


@pytest.mark.parametrize("lost", [False, True])
def test_goes_on_after_a_stop_before_the_end(launch, stub, fake, calls, train, lost):
    """SIGTERM makes training save and exit with 0."""
    preempt = 'echo PREEMPTED > "$FAKE/state"' if lost else ":"
    starts = '"$FAKE/starts$MPLUG2_PROCESS_INDEX"'
    again = f'[[ $(wc -l < {starts}) == 2 ]] && mkdir -p "$workdir/final"'
    stub("member", f"{MEMBER}{again} || {preempt}\nexit 0\n")
    done = launch("tpu_pod.sh", "all", *train, **POD)
    assert done.returncode == 0, done.stderr
    assert (Path(train[-1]) / "final").exists()
    assert calls("create") == calls("delete") == 1 + lost
    assert ("stopped before the end" in done.stderr) != lost
    # Once more, and nobody goes on by itself.
    Path(train[-1], "final").rmdir()
    assert launch("tpu_pod.sh", "create", **POD).returncode == 0
    assert launch("tpu_pod.sh", "install", **POD).returncode == 0
    assert launch("tpu_pod.sh", "run", *train, **POD).returncode == 75


@pytest.mark.parametrize("broken", [2, 3])
def test_an_installation_that_fails_is_tried_again(
    launch, stub, fake, calls, train, broken
):
    stub("member", f'{MEMBER}mkdir -p "$workdir/final"\n')
    (fake / "breaks").write_text("x\n" * broken)
    done = launch("tpu_pod.sh", "all", *train, **POD)
    assert calls("scp") == 3 and calls("create") == 1
    assert "training failed" not in done.stderr
    assert done.returncode == (0 if broken == 2 else 69), done.stderr
    # Only a training that has ended is worth no slice any more.
    assert (fake / "state").exists() == (broken == 3)


NO_ZONE = "PERMISSION_DENIED: Permission denied on 'locations/zone'"
NO_TYPE = "(gcloud) INVALID_ARGUMENT: there is no accelerator v5litepod-16"
NO_IMAGE = '(gcloud) {\n  "code": 5,\n  "message": "there is no image"\n}'
NO_ROOM = '(gcloud) {\n  "code": 8,\n  "message": "There is no more capacity"\n}'


@pytest.mark.parametrize("refusal", [NO_TYPE, NO_IMAGE])
def test_what_is_refused_is_not_asked_for_again(launch, fake, calls, train, refusal):
    (fake / "refusal").write_text(f"ERROR: {refusal}\n")
    done = launch("tpu_pod.sh", "all", *train, **POD)
    assert done.returncode == 2
    assert f"gcloud refuses, and would again: ERROR: {refusal}" in done.stderr
    assert calls("create") == 1 and calls("delete") == 0


def test_a_wrong_zone_is_not_asked_again(launch, fake, calls, train):
    (fake / "hiccups").write_text(NO_ZONE)
    done = launch("tpu_pod.sh", "all", *train, **POD)
    assert done.returncode == 2
    assert NO_ZONE in done.stderr and calls("describe") == 1


def test_a_full_zone_is_asked_again(launch, fake, calls, train):
    (fake / "refusal").write_text(f"ERROR: {NO_ROOM}\n")
    done = launch("tpu_pod.sh", "all", *train, **POD, RESTARTS="2")
    assert done.returncode == 1
    assert calls("create") == 3
    assert done.stderr.count("no more capacity") == 3


def test_a_broken_connection_costs_no_slice(launch, stub, fake, calls, train):
    (fake / "fate").write_text("READY\n")
    (fake / "silence").write_text("no network\n" * 2)
    stub("member", f'{MEMBER}sleep 1; mkdir -p "$workdir/final"\n')
    done = launch("tpu_pod.sh", "all", *train, **POD)
    assert done.returncode == 0, done.stderr
    assert calls("create") == calls("delete") == 1
    assert (fake / "starts0").read_text() == "tpu\n"
    assert done.stderr.count("asking again: ERROR: (gcloud) no network") == 2


def test_a_living_training_is_left_alone(launch, environment, stub, fake, train):
    # It ends once a second client reads the log, or after 20 seconds.
    read = '[[ $(grep -c "tail -n" "$FAKE/calls") == 2 ]]'
    work = f"for _ in {{1..200}}; do {read} && break; sleep 0.1; done"
    stub("member", f'{MEMBER}echo at work; {work}; mkdir -p "$workdir/final"\n')
    for action in ("create", "install"):
        assert launch("tpu_pod.sh", action, **POD).returncode == 0
    # The laptop goes to sleep while the training runs.
    command = ["bash", str(LAUNCH / "tpu_pod.sh"), "run", *train]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    client = subprocess.Popen(command, env=environment | POD, **quiet)
    end = time.monotonic() + 20
    while not ((fake / "starts0").exists() and (fake / "starts1").exists()):
        assert time.monotonic() < end
        time.sleep(0.05)
    client.terminate()
    client.wait()
    done = launch("tpu_pod.sh", "install", **POD)
    assert done.returncode == 1 and "a training is under way" in done.stderr
    done = launch("tpu_pod.sh", "all", *train, **POD)
    assert done.returncode == 0, done.stderr
    assert "here is its log" in done.stderr and "at work" in done.stdout
    assert (fake / "starts0").read_text() == (fake / "starts1").read_text() == "tpu\n"
