"""A run that is killed, stopped and killed while saving ends as if nothing had been.

Real processes and real signals: pretraining with queues, teacher, moving average,
dropout and a mixture of videos and texts, through the command line.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from mixture import write_run

from mplug2_jax.checkpoint.load import read_metadata

STEPS, SAVE_EVERY = 36, 6
STOP_SECONDS = 30  # a step and a save of this size, on a busy machine
CONFIG = """
    config.model.vision.drop_path = config.model.text.dropout = 0.1
    config.validation.path = "{root}/train.jsonl"
    config.eval_every = 12
    del config.mixture.image  # a video's program, compiled once more
    config.ema_decay = 0.9
    config.optimizer.warmup_steps = 5
    config.steps, config.save_every = {steps}, {every}
"""


@pytest.fixture(scope="module")
def config_file(tmp_path_factory) -> Path:
    """Clips, stills and lines of text of the synthetic world, and a run on them."""
    root = tmp_path_factory.mktemp("world")
    changed = CONFIG.format(root=root, steps=STEPS, every=SAVE_EVERY)
    return write_run(root, 6, 4, changed)


class Run:
    """The command in a process of its own; what it prints goes to a file."""

    def __init__(self, config_file: Path, workdir: Path):
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "",  # compiled as users' programs are
            "JAX_COMPILATION_CACHE_DIR": str(config_file.parent / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        command = [sys.executable, "-m", "mplug2_jax", "train"]
        command += ["--config", str(config_file), "--workdir", str(workdir)]
        self.output = workdir.with_suffix(".log")
        with self.output.open("w") as file:
            self.process = subprocess.Popen(command, env=environment, stdout=file)

    def wait_for(self, condition) -> None:
        while not condition():
            assert self.process.poll() is None, "the run ended before its interruption"
            time.sleep(0.001)

    def resumed_at(self) -> int | None:
        found = re.search(r"^resumed at step (\d+) of", self.output.read_text(), re.M)
        return int(found[1]) if found else None

    def end(self, number: signal.Signals | None = None) -> int:
        if number is not None:
            self.process.send_signal(number)
        return self.process.wait()


def losses(workdir: Path) -> dict[int, dict[str, float]]:
    """What each step logged, without the clock's figures."""
    file = workdir / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    found: dict[int, dict[str, float]] = {}
    for line in lines:
        if line.endswith("\n"):
            values = json.loads(line)
            values.pop("train/examples_per_second", None)
            found.setdefault(values["step"], {}).update(values)
    return found


def unfinished(workdir: Path) -> list[str]:
    return [p.name for p in (workdir / "checkpoints").glob("*tmp*")]


def saved(workdir: Path) -> int:
    names = [p.name for p in (workdir / "checkpoints").glob("*")]
    return max((int(name) for name in names if name.isdigit()), default=0)


def stored(path: Path):
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(path.absolute())


@pytest.mark.slow
def test_an_interrupted_run_equals_a_straight_one_bit_for_bit(config_file, tmp_path):
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    assert Run(config_file, straight).end() == 0

    run = Run(config_file, broken)  # 1. killed between two states
    run.wait_for(lambda: 0 < saved(broken) < max(losses(broken), default=0))
    assert run.end(signal.SIGKILL) == -signal.SIGKILL
    last = saved(broken)
    assert last < STEPS

    run = Run(config_file, broken)  # 2. asked to stop
    run.wait_for(lambda: run.resumed_at() and max(losses(broken)) > last + 1)
    asked = time.monotonic()
    assert run.end(signal.SIGTERM) == 0 and run.resumed_at() == last
    assert time.monotonic() - asked < STOP_SECONDS
    stopped = saved(broken)
    assert last < stopped == max(losses(broken)) < STEPS

    run = Run(config_file, broken)  # 3. killed while it saves
    run.wait_for(lambda: run.resumed_at() and unfinished(broken))
    assert run.end(signal.SIGKILL) == -signal.SIGKILL
    assert unfinished(broken), "the state was whole before the run was killed"
    assert run.resumed_at() == stopped
    last = saved(broken)

    run = Run(config_file, broken)  # 4. to its end
    assert run.end() == 0 and run.resumed_at() == last

    assert losses(straight) == losses(broken)
    found = [read_metadata(run / "best") for run in (straight, broken)]
    chosen = [metadata.source for metadata in found]
    assert chosen[0] == chosen[1]
    assert found[0].inputs["instruction"] == "what does the video describe?"
    every = losses(straight).values()
    evaluated = [line for line in every if "validation/loss" in line]
    validated = [line["validation/loss"] for line in evaluated]
    assert chosen[0]["score"] == -min(validated)
    kinds = {name for line in losses(broken).values() for name in line}
    assert {"examples/video", "examples/text"} <= kinds
    ends = [
        stored(run / "checkpoints" / str(STEPS) / "state") for run in (straight, broken)
    ]
    assert {"params", "opt_state", "teacher", "queue", "ema"} <= set(ends[0])
    jax.tree.map(np.testing.assert_array_equal, *ends)
