"""The same run on one device and on eight: one result."""

import dataclasses
import functools
import math
import re
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.tree_util import keystr, tree_leaves_with_path

from mplug2_jax.checkpoint.manager import Progress, StateManager
from mplug2_jax.sharding.mesh import MeshConfig, make_mesh
from mplug2_jax.sharding.partition import distribute, shard_batch
from mplug2_jax.tasks.joint import CaptionAndAnswer
from mplug2_jax.tasks.pretraining import ObjectivesConfig, Pretraining
from mplug2_jax.tasks.question_answering import QuestionAnswering
from mplug2_jax.training.optimizer import OptimizerConfig, make_optimizer
from mplug2_jax.training.step import (
    DistillationConfig,
    abstract_state,
    create_state,
    make_step,
)

MESHES = {
    "dp8": MeshConfig(data=8),
    "fsdp8": MeshConfig(fsdp=8),
    "tp8": MeshConfig(tensor=8),
    "2x2x2": MeshConfig(2, 2, 2),
}
GROUPS = (2, 4, 8)  # devices that one collective of these meshes may join
LOSS, GRADIENT, STEPS, QUEUE = 1e-5, 1e-4, 5, 80
EPSILON = np.finfo(np.float32).eps
OPTIMIZER = make_optimizer(
    OptimizerConfig(1e-3, 1e-3, schedule="constant", clip_norm=1.0), 10
)
# What follows the parameters: a moving average in one task, the teacher in the other.
FOLLOWED = {
    "answering": (DistillationConfig(), {"ema_decay": 0.9}),
    "pretraining": (DistillationConfig(0.4, 0.9, ramp_steps=2), {}),
    "in batch": (DistillationConfig(0.4, 0.9, ramp_steps=2), {}),
}
# What contrast and matching are made of: features of the whole batch and word ids.
CONTRASTED = {"f32[24,16]", "f32[16,24]", "s32[24,7]"}
# Of "in batch": contrast alone, whose negatives are the global batch's own features.
IN_BATCH = {"negatives": "batch", "vlm": 0.0, "mlm": 0.0, "ilm": 0.0}


@dataclasses.dataclass
class Run:
    """Metrics of every step, the first gradient, final state, program."""

    metrics: list[dict[str, float]]
    gradient: dict[str, np.ndarray]
    state: Any
    program: str


def mesh_of(name: str) -> Mesh | None:
    return None if name == "alone" else make_mesh(MESHES[name])


def leaves(tree) -> dict[str, np.ndarray]:
    return {
        keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in tree_leaves_with_path(tree)
    }


def clipped(state) -> dict[str, np.ndarray]:
    """The gradient after one step, clipped and times 1 - b1: Adam's first moment."""
    found = leaves(state.opt_state)
    return {k.split("/mu/")[1]: v for k, v in found.items() if "/mu/" in k}


def advance(step, state, batch, mesh, steps=STEPS) -> Run:
    batch, rng = shard_batch(batch, mesh), jax.random.key(1)
    compiled = step.lower(state, batch, rng).compile()
    metrics, gradient = [], {}
    for _ in range(steps):
        state, found = compiled(state, batch, rng)
        metrics.append(jax.tree.map(float, found))
        gradient = gradient or clipped(state)
    return Run(metrics, gradient, state, compiled.as_text())


class Runs:
    """The two tasks' runs by mesh, each done once, from the same parameters."""

    def __init__(self, config, videos):
        self.config, self.batches = config, {"answering": videos}
        # One instruction and target per video instead of two questions.
        first = {
            name: jax.tree.map(lambda a: a[::2], getattr(videos, name))
            for name in ("question", "answer", "answer_weight")
        }
        pairs = videos.replace(**first)
        self.batches |= {"pretraining": pairs, "in batch": pairs}
        self.start, self.run = map(functools.cache, (self._start, self._run))

    def task(self, kind, mesh):
        if kind == "answering":
            return QuestionAnswering(self.config)
        shards = 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]
        objectives = ObjectivesConfig(queue_size=QUEUE, cls_id=1, mask_id=2)
        if kind == "in batch":
            objectives = dataclasses.replace(objectives, **IN_BATCH)
        return Pretraining(self.config, objectives, shards)

    def made_of(self, kind, mesh):
        distillation, layout = FOLLOWED[kind]
        made_of = (self.task(kind, mesh), OPTIMIZER, distillation)
        return made_of, layout | {"mesh": mesh}

    def abstract(self, kind, mesh):
        made_of, layout = self.made_of(kind, mesh)
        return abstract_state(*made_of, **layout)

    def _start(self, kind):
        made_of, layout = self.made_of(kind, None)
        state = create_state(*made_of, jax.random.key(0), **layout)
        return jax.tree.map(np.array, state)  # copies: a step takes its state over

    def _run(self, kind, name) -> Run:
        return self.on(kind, mesh_of(name))

    def on(self, kind, mesh, accumulation=1) -> Run:
        made_of, layout = self.made_of(kind, mesh)
        state = self.start(kind)
        if mesh is not None:
            places = jax.tree.map(lambda a: a.sharding, self.abstract(kind, mesh))
            state = distribute(state, places)
        step = make_step(*made_of, accumulation, **layout)
        return advance(step, state, self.batches[kind], mesh)


@pytest.fixture(scope="module")
def runs(eight_heads, videos) -> Runs:
    return Runs(eight_heads, videos)


def is_noise(name: str) -> bool:
    """Softmax does not see what is added to all of its scores: a key's bias."""
    return name.endswith("/key/bias")


def assert_close(ours, theirs, part: str) -> None:
    """Each leaf's distance over its norm, but for those that are all rounding."""
    whole = np.sqrt(sum(np.sum(leaf**2) for leaf in theirs.values()))
    off = {}
    for name, leaf in theirs.items():
        size, distance = (float(np.linalg.norm(x)) for x in (leaf, ours[name] - leaf))
        if is_noise(name):
            assert part != "gradient" or size < EPSILON * whole, name
        elif distance > GRADIENT * size:
            off[name] = (distance, size, size / whole)
    assert off == {}, part


def assert_same(ours: Run, theirs: Run) -> None:
    assert_same_losses(ours, theirs)
    for part in ("params", "teacher", "ema"):
        pair = (leaves(getattr(run.state, part)) for run in (ours, theirs))
        assert_close(*pair, part)


def assert_same_losses(ours: Run, theirs: Run) -> None:
    """Of every step, and the first gradient."""
    for one, other in zip(ours.metrics, theirs.metrics, strict=True):
        losses = [name for name in other if "loss" in name or "norm" in name]
        for name in (*losses, "skipped"):
            np.testing.assert_allclose(one[name], other[name], LOSS, err_msg=name)
    assert_close(ours.gradient, theirs.gradient, "gradient")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ("answering", "pretraining"))
@pytest.mark.parametrize("name", MESHES)
def test_five_steps_on_a_mesh_equal_those_of_one_device(name, kind, runs):
    run = runs.run(kind, name)
    assert_same(run, runs.run(kind, "alone"))
    for leaf in jax.tree.leaves(run.state):
        assert len(leaf.sharding.device_set) == 8
    if name != "tp8":  # every device has the whole batch there
        found = gathered(run.program, len(runs.batches[kind].frames))
        assert set(found) <= (CONTRASTED if kind == "pretraining" else set())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fsdp8", "2x2x2"])
def test_negatives_of_the_global_batch_are_those_of_one_device(name, runs):
    """In value and gradient. Parameters are not compared: with contrast alone a text
    bias has an element whose gradient, 4e-9 among 2e-4, is rounding, and Adam's step
    is as long for it as for any other.
    """
    assert_same_losses(runs.run("in batch", name), runs.run("in batch", "alone"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fsdp8", "2x2x2"])
def test_the_queue_is_divided_and_the_same(name, runs):
    run, alone = (runs.run("pretraining", name) for name in (name, "alone"))
    for part in ("vision", "text"):
        queue = run.state.queue[part]
        np.testing.assert_allclose(queue, alone.state.queue[part], atol=1e-5)
        parts = {"fsdp8": 8, "2x2x2": 4}[name]
        assert len(queue.addressable_shards[0].data) == QUEUE // parts


@pytest.mark.slow
def test_a_whole_state_moves_to_other_devices(runs, tmp_path):
    """Queue, teacher and moments too: from eight to one, eight again, two, eight."""
    state = first = runs.run("pretraining", "fsdp8").state
    meshes = {name: mesh_of(name) for name in ("alone", "2x2x2", "fsdp8")}
    two = make_mesh(MeshConfig(fsdp=2), jax.devices()[:2])
    order = meshes["alone"], meshes["2x2x2"], two, meshes["fsdp8"]
    for step, mesh in enumerate(order):
        manager = StateManager(tmp_path / "states", keep=1)
        manager.save(step, state, Progress())
        manager.close()
        wanted = runs.abstract("pretraining", mesh)
        manager = StateManager(tmp_path / "states", keep=1)
        state, _ = manager.restore(wanted)
        manager.close()
        jax.tree.map(np.testing.assert_array_equal, state, first)
        for leaf, place in zip(*map(jax.tree.leaves, (state, wanted)), strict=True):
            assert place.sharding in (None, leaf.sharding)


def gathered(program: str, rows: int) -> list[str]:
    """Results of all-gathers with an axis that may hold all rows, or rows and tokens.

    Or two that do, as where rows go round in a ring: as many pieces as one collective
    joins devices, and the rows of each. No axis of the model is a multiple of the rows.
    """
    results = re.findall(r"= (.*?) all-gather(?:-start)?\(", program)
    shapes = [shape for text in results for shape in re.findall(r"\w+\[[\d,]*\]", text)]

    def is_whole(shape: str) -> bool:
        axes = [int(axis) for axis in re.findall(r"\d+", shape.partition("[")[2])]
        in_pieces = len(axes) > 2 and math.prod(axes[:2]) == rows and axes[0] in GROUPS
        return in_pieces or any(axis % rows == 0 for axis in axes)

    return list(filter(is_whole, shapes))


def test_gathers_of_a_batch_are_found_in_a_program(videos):
    """The check above sees what it should: here the batch is gathered on purpose."""
    mesh = make_mesh(MESHES["fsdp8"])
    frames = shard_batch(videos, mesh).frames
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    program = jax.jit(lambda x: x * 2, out_shardings=whole).lower(frames).compile()
    assert gathered(program.as_text(), len(videos.frames))


@pytest.mark.slow
def test_accumulation_on_a_mesh_changes_nothing(eight_heads, videos):
    """Parts of different numbers of tokens; without dropout, which differs by part."""
    config = eight_heads.replace(
        text={"dropout": 0.0, "attention_dropout": 0.0}, vision={"drop_path": 0.0}
    )
    made_of = (CaptionAndAnswer(config, prompt_length=2), OPTIMIZER)
    made_of = (*made_of, DistillationConfig())
    start = jax.tree.map(np.array, create_state(*made_of, jax.random.key(0)))
    whole = advance(make_step(*made_of), start, videos, None, steps=2)
    mesh = make_mesh(MeshConfig(data=4), jax.devices()[:4])
    places = jax.tree.map(lambda a: a.sharding, abstract_state(*made_of, mesh=mesh))
    step = make_step(*made_of, 3, mesh=mesh)
    parts = advance(step, distribute(start, places), videos, mesh, steps=2)
    assert_same(parts, whole)
    assert gathered(parts.program, len(videos.frames)) == []


@pytest.mark.slow
def test_pretraining_in_parts_on_a_mesh_changes_nothing(runs):
    """Negatives, queue and teacher of the whole batch, a third of it at a time."""
    parts = runs.on("pretraining", mesh_of("2x2x2"), accumulation=3)
    assert_same(parts, runs.run("pretraining", "alone"))
    whole = gathered(parts.program, len(runs.batches["pretraining"].frames))
    assert set(whole) <= CONTRASTED


def test_activations_are_pinned_to_the_mesh(runs, videos):
    """A constraint that silently is none would leave the batch to the compiler."""
    mesh = make_mesh(MESHES["2x2x2"])
    made_of, layout = runs.made_of("answering", mesh)
    step, state = make_step(*made_of, **layout), runs.abstract("answering", mesh)
    text = step.lower(state, videos, jax.random.key(0)).as_text()
    pins = re.findall(r'sharding_constraint .*\[\{"data", "fsdp"\}', text)
    assert len(pins) >= 4
