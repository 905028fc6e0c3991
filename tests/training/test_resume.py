"""A run that is killed, stopped and killed while saving ends as if nothing had been.

Real processes and real signals: pretraining with queues, teacher, moving average,
dropout and a mixture of videos, images and texts, through the command line.
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
from PIL import Image

from mplug2_jax.checkpoint.load import read_metadata
from mplug2_jax.data import shapes
from mplug2_jax.data.tokenizers import WordPieceTokenizer

STEPS, SAVE_EVERY = 60, 8
STOP_SECONDS = 30  # a step and a save of this size, on a busy machine
CONFIG = """
from mplug2_jax.training.config import default_config, default_part

def get_config():
    config = default_config("pretraining", "tiny")
    config.vocab = "{root}/tokenizer"
    config.model.vision.update(
        width=32, num_layers=1, num_heads=2, image_size=24, mlp_dim=64, drop_path=0.1)
    config.model.text.update(
        width=32, num_heads=2, mlp_dim=64, num_layers=2, dropout=0.1)
    config.model.universal.update(num_layers=1, num_latents=4)
    config.model.fusion.num_layers = config.model.decoder.num_layers = 1
    config.model.contrastive.width = 16
    config.objectives.queue_size = 16
    config.inputs.update(num_frames=2, caption_length=16, question_length=10,
                         answer_length=16, text_length=16, prompt="")
    files = dict(video="train.jsonl", image="image.jsonl", text="text.txt")
    for kind, path in files.items():
        config.mixture[kind] = default_part(kind)
        config.mixture[kind].data.path = "{root}/" + path
        config.mixture[kind].batch.update(batch_size=4, threads=1)
    config.validation.path = "{root}/train.jsonl"
    config.eval_every = 20
    config.distillation.weight = 0.4
    config.ema_decay = 0.9
    config.optimizer.update(learning_rate=1e-3, vision_learning_rate=1e-3,
                            warmup_steps=5, clip_norm=1.0)
    config.steps, config.save_every, config.log_every = {steps}, {every}, 1
    return config
"""


@pytest.fixture(scope="module")
def config_file(tmp_path_factory) -> Path:
    """Clips, stills and lines of text of the synthetic world, and a run on them."""
    root = tmp_path_factory.mktemp("world")
    annotations = shapes.write_dataset(root, "train", 6, num_frames=4, size=24)
    WordPieceTokenizer.from_words(shapes.vocabulary()).save(root / "tokenizer")
    lines = [json.loads(line) for line in annotations.read_text().splitlines()]
    stills, texts = [], []
    for index, line in enumerate(lines):
        scene = shapes.make_scene(shapes.scene_rng("train", 0, index))
        Image.fromarray(shapes.render(scene, 4, 24)[0]).save(root / f"{index}.png")
        stills.append({"image": f"{index}.png", "captions": line["captions"]})
        texts += line["captions"]
    (root / "image.jsonl").write_text("\n".join(map(json.dumps, stills)))
    (root / "text.txt").write_text("\n".join(texts))
    file = root / "config.py"
    file.write_text(CONFIG.format(root=root, steps=STEPS, every=SAVE_EVERY))
    return file


class Run:
    """The command in a process of its own; what it prints goes to a file."""

    def __init__(self, config_file: Path, workdir: Path):
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": os.environ["XLA_FLAGS"].replace(
                "device_count=8", "device_count=1"
            ),
            "JAX_COMPILATION_CACHE_DIR": str(config_file.parent / "compiled"),
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
    assert {"examples/video", "examples/image", "examples/text"} <= kinds
    ends = [
        stored(run / "checkpoints" / str(STEPS) / "state") for run in (straight, broken)
    ]
    assert {"params", "opt_state", "teacher", "queue", "ema"} <= set(ends[0])
    jax.tree.map(np.testing.assert_array_equal, *ends)
