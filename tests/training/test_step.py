"""One step: the momentum teacher, accumulation, random numbers by step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mplug2_jax.tasks.joint import CaptionAndAnswer
from mplug2_jax.training.optimizer import OptimizerConfig, make_optimizer
from mplug2_jax.training.step import (
    DistillationConfig,
    init_state,
    make_step,
    soft_weight,
)

OPTIMIZER = OptimizerConfig(1e-2, 1e-3, schedule="constant")


def leaves_close(ours, theirs, **tolerance):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, **tolerance)


@pytest.fixture(scope="module")
def setup(small_config, small_batch):
    task = CaptionAndAnswer(small_config)
    return task, jax.jit(task.init)(jax.random.key(0)), small_batch


def run(setup, distillation=DistillationConfig(), accumulation=1, steps=1):
    task, params, batch = setup
    optimizer = make_optimizer(OPTIMIZER, 10)
    state = init_state(jax.tree.map(jnp.copy, params), optimizer, distillation)
    step = make_step(task, optimizer, distillation, accumulation)
    for _ in range(steps):
        state, metrics = step(state, batch, jax.random.key(1))
    return state, metrics


def test_teacher_follows_by_its_momentum(setup):
    state, _ = run(setup, DistillationConfig(weight=0.4, momentum=0.9))
    expected = jax.tree.map(
        lambda old, new: 0.9 * old + 0.1 * new, setup[1], state.params
    )
    leaves_close(state.teacher, expected, atol=1e-6)


def test_soft_targets_of_weight_zero_change_nothing(setup):
    plain, _ = run(setup)
    assert plain.teacher is None
    task, params, batch = setup
    loss = task.loss(params, batch)[0]
    taught = task.loss(params, batch, teacher=params, soft_weight=0.0)[0]
    assert float(loss) == pytest.approx(float(taught), rel=1e-6)
    soft = task.loss(params, batch, teacher=params, soft_weight=0.4)[0]
    assert float(soft) != float(loss)


def test_weight_of_soft_targets_ramps_up():
    config = DistillationConfig(weight=0.4, ramp_steps=10)
    weights = [float(soft_weight(config, jnp.int32(s))) for s in (0, 5, 10, 20)]
    assert weights == pytest.approx([0.0, 0.2, 0.4, 0.4])


def test_accumulated_parts_give_the_gradient_of_the_whole(setup):
    """Every part has as many tokens and questions as any other."""
    _, first = run(setup)
    _, second = run(setup, accumulation=2)
    leaves_close(first["answer_loss"], second["answer_loss"], rtol=1e-5)
    assert float(first["gradient_norm"]) == pytest.approx(
        float(second["gradient_norm"]), rel=1e-4
    )
