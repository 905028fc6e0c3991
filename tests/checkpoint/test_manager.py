"""States of a run: kept, found again whole, and laid out for any mesh."""

import errno
import itertools
import os
import resource
import shutil

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mplug2_jax.checkpoint.load import named_damage
from mplug2_jax.checkpoint.manager import Progress, StateManager
from mplug2_jax.exits import LostError

MESHES = {"one": (1, 1, 1), "two": (1, 2, 1), "eight": (1, 8, 1), "cube": (2, 2, 2)}


@flax.struct.dataclass
class State:
    step: jax.Array
    params: dict
    teacher: dict | None = None


def on_mesh(shape) -> Mesh:
    count = int(np.prod(shape))
    devices = np.array(jax.devices()[:count]).reshape(shape)
    return Mesh(devices, ("data", "fsdp", "tensor"))


def abstract(mesh: Mesh, width: int = 16) -> State:
    """A matrix divided both ways, a bias, and a counter."""

    def leaf(shape, *spec, dtype="float32"):
        sharding = NamedSharding(mesh, PartitionSpec(*spec))
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    params = {"kernel": leaf((8, width), "fsdp", "tensor"), "bias": leaf((width,))}
    return State(leaf((), dtype="int32"), params, params)


def filled(mesh: Mesh, scale: float = 1.0) -> State:
    def value(leaf):
        array = np.arange(np.prod(leaf.shape)).reshape(leaf.shape) * scale
        return jax.device_put(array.astype(leaf.dtype), leaf.sharding)

    return jax.tree.map(value, abstract(mesh))


@pytest.mark.parametrize(("saved", "restored"), list(itertools.permutations(MESHES, 2)))
def test_any_mesh_restores_any_other(saved, restored, tmp_path):
    state = filled(on_mesh(MESHES[saved]))
    manager = StateManager(tmp_path / "states", keep=1)
    progress = Progress({"step": 7}, {"video": 56}, unevaluated=True)
    manager.save(7, state, progress)
    manager.close()
    wanted = abstract(on_mesh(MESHES[restored]))
    manager = StateManager(tmp_path / "states", keep=1)
    again, found = manager.restore(wanted)
    manager.close()
    assert found == progress
    jax.tree.map(np.testing.assert_array_equal, again, state)
    jax.tree.map(lambda a, b: a.sharding == b.sharding or pytest.fail(), again, wanted)


def test_the_last_and_the_best_are_kept(tmp_path):
    mesh = on_mesh((1, 1, 1))
    manager = StateManager(tmp_path / "states", keep=2)
    scores = {1: 0.1, 2: 0.9, 3: None, 4: 0.3, 5: None, 6: None}
    for step, score in scores.items():
        manager.save(step, filled(mesh, step), Progress(), score)
    manager.close()
    kept = sorted(int(p.name) for p in (tmp_path / "states").iterdir())
    assert kept == [2, 5, 6]


def test_a_state_of_another_shape_is_named(tmp_path):
    mesh = on_mesh((1, 1, 1))
    manager = StateManager(tmp_path / "states", keep=2)
    manager.save(3, filled(mesh), Progress())
    manager.close()
    manager = StateManager(tmp_path / "states", keep=2)
    with pytest.raises(ValueError, match=r"params/bias is stored with shape \(16,\)"):
        manager.restore(abstract(mesh, width=32))
    without = State(jnp.int32(0), filled(mesh).params)
    with pytest.raises(ValueError, match="teacher/bias .* this run has None"):
        manager.restore(without)
    manager.close()


@pytest.fixture(scope="module")
def states(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "states"
    manager = StateManager(folder, keep=1)
    manager.save(3, filled(on_mesh((1, 1, 1))), Progress())
    manager.close()
    return folder


@pytest.mark.parametrize(
    ("lost", "reason"),
    [
        ("about", "about"),
        ("state/manifest.ocdbt", "NOT_FOUND"),
        ("state/_METADATA", "the shapes of its arrays"),
    ],
)
def test_a_damaged_state_is_named(states, tmp_path, lost, reason):
    folder = tmp_path / "states"
    shutil.copytree(states, folder)
    (folder / "3" / lost).rename(tmp_path / "lost")
    manager = StateManager(folder, keep=1)
    with pytest.raises(ValueError) as found:
        manager.restore(abstract(on_mesh((1, 1, 1))))
    manager.close()
    said = str(found.value)
    assert said.startswith(f"{folder / '3'} is damaged or incomplete (")
    assert reason in said and "tensorstore" not in said
    assert said.endswith(
        "; remove it, and the run goes on from the state before it, or begins anew."
    )


@pytest.fixture
def no_room():
    """Files of more than 64 KiB cannot be written."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_state_that_cannot_be_written_may_be_another_time(tmp_path, no_room):
    manager = StateManager(tmp_path, keep=1)
    noise = np.random.default_rng(0).random(2**16)
    with pytest.raises(LostError, match=r"written to .* \(File too large\); make room"):
        manager.save(
            1, State(jax.device_put(1), {"noise": jax.device_put(noise)}), Progress()
        )
        manager.close()


def test_a_file_system_that_does_not_answer_is_no_damage(tmp_path):
    gone = OSError(errno.ESTALE, os.strerror(errno.ESTALE), "state")
    said = pytest.raises(LostError, match="Stale file handle.*; try again")
    with said, named_damage(tmp_path):
        raise gone
