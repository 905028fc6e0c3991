"""Where every array lies: by table, by path, and how much of it on each device."""

import math
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec
from jax.tree_util import keystr, tree_leaves_with_path

from mplug2_jax.models.config import PRESETS
from mplug2_jax.models.mplug2 import HEADS, MODULES, MPlug2, init_params
from mplug2_jax.sharding.mesh import MeshConfig, make_mesh
from mplug2_jax.sharding.partition import (
    describe,
    param_specs,
    state_shardings,
    undivided,
)
from mplug2_jax.tasks.question_answering import QuestionAnswering
from mplug2_jax.training.optimizer import OptimizerConfig, make_optimizer
from mplug2_jax.training.step import (
    DistillationConfig,
    TrainState,
    abstract_state,
    create_state,
)

GOLDEN = Path(__file__).parents[1] / "golden"
ADAMW = make_optimizer(OptimizerConfig(clip_norm=1.0), 10)


def boxed(config):
    model = MPlug2(config, (*MODULES, *HEADS))
    return jax.eval_shape(lambda: init_params(model, jax.random.key(0)))


@pytest.mark.parametrize("size", ["base", "large"])
def test_every_parameters_shape_and_partition(size, tmp_path):
    """A change of layout is a change of `golden/params_*.txt`, seen in review."""
    table = describe(boxed(PRESETS[size]()))
    seen = tmp_path / f"params_{size}.txt"
    seen.write_text(table)
    golden = (GOLDEN / seen.name).read_text()
    assert table.splitlines() == golden.splitlines(), f"if meant, copy {seen} there"


def test_a_parameter_without_names_or_rule_is_named():
    with pytest.raises(ValueError, match="Parameter head/w has no logical axis names"):
        param_specs({"head": {"w": jnp.zeros(3)}})
    strange = nn.LogicallyPartitioned(jnp.zeros((2, 3)), ("embed", "experts"))
    with pytest.raises(ValueError, match="head/w has an axis 'experts', for which"):
        param_specs({"head": {"w": strange}})


def test_dimensions_that_do_not_divide_are_listed_and_kept_whole():
    params = {"w": nn.LogicallyPartitioned(jnp.zeros((16, 12)), ("embed", "heads"))}
    mesh = make_mesh(MeshConfig(tensor=8))
    assert undivided(params, mesh) == ["w axis 1 (12 over 'tensor')"]
    shardings = state_shardings({"w": jnp.zeros((16, 12))}, params, mesh)
    assert shardings["w"].spec == PartitionSpec("fsdp", None)


def test_what_is_like_no_parameter_is_named():
    params = {"w": nn.LogicallyPartitioned(jnp.zeros((16, 8)), ("embed", "heads"))}
    mesh = make_mesh(MeshConfig(fsdp=8))
    with pytest.raises(ValueError, match=r"row/w \(16,\) .* not laid out like any"):
        state_shardings({"row": {"w": jnp.zeros(16)}}, params, mesh)


def test_everything_like_a_parameter_lies_like_it():
    """Moments (under the masks of two learning rates), teacher, moving average."""
    task = QuestionAnswering(PRESETS["tiny"]())
    mesh = make_mesh(MeshConfig(2, 2, 2))
    distillation = DistillationConfig(weight=0.4)
    state = abstract_state(task, ADAMW, distillation, ema_decay=0.9, mesh=mesh)
    path = "vision/blocks/mlp/up/kernel"
    same = {
        keystr(keys, simple=True, separator="/"): leaf.sharding.spec
        for keys, leaf in tree_leaves_with_path(state)
        if keystr(keys, simple=True, separator="/").endswith(path)
    }
    assert len(same) == 5 and {"teacher", "ema"} <= {n.split("/")[0] for n in same}
    assert set(same.values()) == {PartitionSpec(None, "fsdp", "tensor")}


def test_rows_of_a_queue_are_divided():
    mesh = make_mesh(MeshConfig(4, 2))
    queue = {"vision": jnp.zeros((16, 4)), "odd": jnp.zeros((3, 4)), "at": jnp.int32(0)}
    places = state_shardings({"queue": queue}, {}, mesh)["queue"]
    shards = jax.tree.map(lambda a, at: at.shard_shape(a.shape), queue, places)
    assert shards == {"vision": (2, 4), "odd": (3, 4), "at": ()}


def bytes_per_device(tree) -> int:
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


@pytest.mark.parametrize("size", ["base", "large"])
def test_fsdp_divides_parameters_and_moments_by_eight(size):
    task = QuestionAnswering(PRESETS[size]())
    mesh = make_mesh(MeshConfig(fsdp=8))
    state = abstract_state(task, ADAMW, DistillationConfig(), mesh=mesh)
    kept = (state.params, state.opt_state)
    whole = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept))
    assert bytes_per_device(kept) == pytest.approx(whole / 8, rel=0.1)


@pytest.mark.slow
def test_a_state_is_born_in_parts_and_the_same(eight_heads):
    task, mesh = QuestionAnswering(eight_heads), make_mesh(MeshConfig(2, 2, 2))
    arguments = (task, ADAMW, DistillationConfig(), jax.random.key(3))
    whole, parts = create_state(*arguments), create_state(*arguments, mesh=mesh)
    close = jax.tree.map(
        lambda a, b: bool(jnp.allclose(a, jax.device_get(b), atol=1e-6)), whole, parts
    )
    assert all(jax.tree.leaves(close))
    kernel = parts.params["vision"]["blocks"]["mlp"]["up"]["kernel"]
    assert kernel.addressable_shards[0].data.size == kernel.size // 4
    given = create_state(*arguments, mesh=mesh, params=jax.device_get(whole.params))
    assert given.params["text"]["embeddings"]["word"]["embedding"].sharding.spec == (
        PartitionSpec("tensor", "fsdp")
    )
    assert isinstance(given, TrainState) and int(given.step) == 0
