"""Processes that meet over loopback: the same run, and the same end of a broken one."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from mixture import write_run

from mplug2_jax.exits import LOST
from mplug2_jax.sharding import distributed
from mplug2_jax.sharding.distributed import BY_HAND, Cluster, detect

RELATIVE = 1e-5  # of losses: sums of eight parts or of four, over a few steps
STEPS, SAVE_EVERY = 16, 4
CLIPS = 40  # five batches, of training as of validation
HEARTBEAT = 10  # seconds
GRACE = 20  # on a busy machine, to notice and to end
STOP_SECONDS = 60  # a step and a save, on a busy machine
FINISH_SECONDS = 900  # compiling several programs, on a busy machine
CONFIG = """
    config.mesh.fsdp = 2
    config.optimizer.warmup_steps = 2
    config.steps, config.save_every = {steps}, {every}
"""
VIDEOS = """
    del config.mixture.image, config.mixture.text
    config.validation.path = "{root}/train.jsonl"
    config.eval_every = 4
"""
HAND = dict(zip(BY_HAND, ("host:1234", "4", "3"), strict=True))
SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "n[1-2]",
    "SLURM_NTASKS": "16",
    "SLURM_PROCID": "9",
    "SLURM_LOCALID": "1",
}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Cluster()),
        (HAND, Cluster("by hand", "host:1234", 4, 3)),
        (SLURM, Cluster("slurm", None, 16, 9)),
        (SLURM | HAND, Cluster("by hand", "host:1234", 4, 3)),
        (SLURM | {"SLURM_NTASKS": "1"}, Cluster()),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "16"}, Cluster()),  # salloc, no srun
    ],
)
def test_how_a_process_was_started(environment, expected):
    assert detect(environment | {"JAX_PLATFORMS": "cpu"}) == expected


def test_a_tpu_is_found_by_its_device_and_its_library(monkeypatch, tmp_path):
    device = tmp_path / "accel0"
    monkeypatch.setattr(distributed, "_TPU_DEVICES", (str(device),))
    found = []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: found)
    assert detect({}) == Cluster()
    device.touch()
    assert detect({}) == Cluster()  # no library
    found.append("libtpu")
    assert detect({}) == Cluster("tpu", None, None, None)
    assert detect({"JAX_PLATFORMS": "cpu"}) == Cluster()
    assert detect(SLURM).kind == "slurm"


def test_one_process_by_hand_needs_no_others():
    assert detect(HAND | {"MPLUG2_PROCESSES": "1", BY_HAND[2]: "0"}).kind == "single"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"MPLUG2_PROCESSES": ""}, "MPLUG2_PROCESSES is not set"),
        ({"MPLUG2_COORDINATOR": "host"}, "expected HOST:PORT"),
        ({"MPLUG2_COORDINATOR": "host:70000"}, "expected HOST:PORT"),
        ({"MPLUG2_PROCESS_INDEX": "4"}, "expected an index from 0"),
        ({"MPLUG2_PROCESS_INDEX": "-1"}, "expected a whole number"),
    ],
)
def test_wrong_variables_are_named(changed, message):
    with pytest.raises(ValueError, match=message):
        detect(HAND | changed)


def test_a_process_that_meets_nobody_says_so(tmp_path):
    """Either of two without the other, and process 0 at a port that is taken."""
    config = "from ml_collections import ConfigDict as get_config"
    (tmp_path / "c.py").write_text(config)
    command = [sys.executable, "-m", "mplug2_jax", "train", "--config", "c.py"]
    command += ["--workdir", "never"]
    shared = os.environ | {"JAX_PLATFORMS": "cpu", "MPLUG2_JOIN_SECONDS": "1"}
    pipes = {"stderr": subprocess.PIPE, "text": True, "cwd": tmp_path}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = f"127.0.0.1:{probe.getsockname()[1]}"
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = f"127.0.0.1:{server.getsockname()[1]}"
        members = (free, "2", "0"), (taken, "2", "1"), (taken, "2", "0")
        started = [
            subprocess.Popen(
                command, env=shared | dict(zip(BY_HAND, its, strict=True)), **pipes
            )
            for its in members
        ]
        said = [process.communicate(timeout=STOP_SECONDS)[1] for process in started]
    assert [process.returncode for process in started] == [LOST] * 3, said
    for index, where in enumerate((free, taken)):
        expected = f"Process {index} of 2 did not meet the others at {where} within 1 s"
        assert expected in said[index]
    assert "Process 0 cannot listen on port" in said[2]


class Run:
    """`mplug2 train` on loopback, `count` processes of `devices` CPU devices each."""

    def __init__(self, config: Path, workdir: Path, count: int, devices: int):
        self.workdir = workdir
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.shared = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": os.environ["XLA_FLAGS"].replace(
                "device_count=8", f"device_count={devices}"
            ),
            "JAX_COMPILATION_CACHE_DIR": str(config.parent / "compiled"),
            "MPLUG2_HEARTBEAT_SECONDS": str(HEARTBEAT),
        }
        self.command = [sys.executable, "-m", "mplug2_jax", "train", "--config"]
        self.command += [str(config), "--workdir", str(workdir)]
        workdir.mkdir(exist_ok=True)
        self.printed = [workdir.with_suffix(f".{index}.txt") for index in range(count)]
        members = [(f"127.0.0.1:{port}", str(count), str(i)) for i in range(count)]
        self.processes = list(map(self.start, members, self.printed))

    def start(self, member: tuple[str, ...], printed: Path) -> subprocess.Popen:
        environment = self.shared | dict(zip(BY_HAND, member, strict=True))
        with printed.open("w") as file:
            return subprocess.Popen(
                self.command, env=environment, stdout=file, stderr=subprocess.STDOUT
            )

    def texts(self) -> list[str]:
        return [file.read_text() for file in self.printed]

    def finish(self) -> list[str]:
        """What the processes printed; all must succeed."""
        codes = [process.wait(FINISH_SECONDS) for process in self.processes]
        assert codes == [0] * len(codes), "\n\n".join(self.texts())
        return self.texts()

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def losses(self) -> dict[int, dict[str, float]]:
        found: dict[int, dict[str, float]] = {}
        for line in (self.workdir / "metrics.jsonl").read_text().splitlines():
            values = json.loads(line)
            kept = {k: v for k, v in values.items() if "loss" in k or "norm" in k}
            found.setdefault(values["step"], {}).update(kept)
        return found

    def wait_until_saved(self, step: int) -> None:
        while self.saved() < step:
            assert self.processes[0].poll() is None, self.texts()[0]
            time.sleep(0.002)

    def saved(self) -> int:
        names = [p.name for p in self.workdir.glob("checkpoints/*")]
        return max((int(name) for name in names if name.isdigit()), default=0)


class World:
    """A run's file, and its losses in one process with eight devices."""

    def __init__(self, root: Path, changed: str = ""):
        changed = (CONFIG + changed).format(root=root, steps=STEPS, every=SAVE_EVERY)
        self.config = write_run(root, CLIPS, 8, changed)
        run = Run(self.config, root / "alone", 1, 8)
        try:
            run.finish()
        finally:
            run.end()
        self.losses = run.losses()
        assert sorted(self.losses) == list(range(1, STEPS + 1))


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def videos_alone(tmp_path_factory) -> World:
    """One program to compile instead of three, by runs that end several times."""
    return World(tmp_path_factory.mktemp("videos"), VIDEOS)


def assert_same_losses(run: Run, world: World) -> None:
    found = run.losses()
    assert found.keys() == world.losses.keys()
    for step, line in world.losses.items():
        assert found[step].keys() == line.keys()
        for name, value in line.items():
            np.testing.assert_allclose(found[step][name], value, RELATIVE, 1e-7)


@pytest.fixture
def launch(tmp_path):
    """Starts runs of several processes, two devices each, which end with the test."""
    runs = []

    def start(world: World, count: int) -> Run:
        runs.append(Run(world.config, tmp_path / "run", count, 2))
        return runs[-1]

    yield start
    for run in runs:
        run.end()


@pytest.mark.cluster
@pytest.mark.parametrize("count", [2, 4])
def test_processes_train_as_one_does(count, launch, world):
    """Videos, images and texts; parameters divided, a queue, a teacher."""
    run = launch(world, count)
    for index, text in enumerate(run.finish()):
        assert text.count(f"process {index} of {count} (by hand)") == 1
    assert_same_losses(run, world)


def lose(run: Run, victim: int, how: signal.Signals) -> None:
    """One of two processes is killed or hangs: the other ends, not waiting for it."""
    run.wait_until_saved(SAVE_EVERY)
    run.processes[victim].send_signal(how)
    start = time.monotonic()
    assert run.processes[1 - victim].wait(timeout=HEARTBEAT + GRACE) != 0
    assert time.monotonic() - start < HEARTBEAT + GRACE
    assert run.saved() < STEPS, "the run ended before it was interrupted"


@pytest.mark.cluster
def test_a_killed_process_stops_the_others_and_a_restart_resumes(launch, videos_alone):
    run = launch(videos_alone, 2)
    lose(run, 1, signal.SIGKILL)
    # By a collective that failed or by the heartbeat, whichever is first.
    said = "Process 0 of 2 lost another one", "stopped sending heartbeats):\n1\n"
    assert any(reason in run.texts()[0] for reason in said), run.texts()[0]
    again = launch(videos_alone, 2)
    assert "resumed at step" in again.finish()[0]
    assert_same_losses(again, videos_alone)


@pytest.mark.cluster
@pytest.mark.parametrize("victim, how", [(0, signal.SIGKILL), (1, signal.SIGSTOP)])
def test_a_killed_coordinator_or_a_process_that_hangs_stops_the_others(
    victim, how, launch, videos_alone
):
    lose(launch(videos_alone, 2), victim, how)


@pytest.mark.cluster
def test_processes_that_are_told_to_stop_save_the_same_step(launch, videos_alone):
    """After the same step, or within its validation, which is done on going on."""
    run = launch(videos_alone, 2)
    run.wait_until_saved(SAVE_EVERY)
    start = time.monotonic()
    for process in run.processes:
        process.send_signal(signal.SIGTERM)
    assert [process.wait(STOP_SECONDS) for process in run.processes] == [0, 0]
    assert time.monotonic() - start < STOP_SECONDS
    stopped = run.saved()
    assert SAVE_EVERY < stopped < STEPS, "the run ended before it was stopped"
    assert f"after step {stopped}, which is saved" in run.texts()[0]
    again = launch(videos_alone, 2)
    assert f"resumed at step {stopped} of {STEPS}" in again.finish()[0]
    assert_same_losses(again, videos_alone)
