"""One step: teacher, moving average, accumulation, frozen parts, steps skipped."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mplug2_jax.checkpoint.manager import Progress, StateManager
from mplug2_jax.tasks.joint import CaptionAndAnswer
from mplug2_jax.tasks.pretraining import ObjectivesConfig, Pretraining
from mplug2_jax.training.optimizer import OptimizerConfig, make_optimizer
from mplug2_jax.training.step import (
    DistillationConfig,
    abstract_state,
    create_state,
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


def run(setup, distillation=DistillationConfig(), accumulation=1, freeze=(), **options):
    task, params, batch = setup
    optimizer = make_optimizer(dataclasses.replace(OPTIMIZER, freeze=freeze), 10)
    params = jax.tree.map(jnp.copy, params)
    state = init_state(params, optimizer, distillation, **options)
    step = make_step(task, optimizer, distillation, accumulation, **options)
    return step(state, batch, jax.random.key(1))


def test_teacher_follows_by_its_momentum(setup):
    state, _ = run(setup, DistillationConfig(weight=0.4, momentum=0.9))
    expected = jax.tree.map(
        lambda old, new: 0.9 * old + 0.1 * new, setup[1], state.params
    )
    leaves_close(state.teacher, expected, atol=1e-6)


def test_a_restored_state_runs_the_program_of_a_new_one(setup, tmp_path):
    """Or a run that goes on would be compiled again."""
    made_of = setup[0], make_optimizer(OPTIMIZER, 10), DistillationConfig()
    new = create_state(*made_of, jax.random.key(0), params=setup[1])
    manager = StateManager(tmp_path, keep=1)
    manager.save(1, new, Progress())
    manager.close()
    restored, _ = StateManager(tmp_path, keep=1).restore(abstract_state(*made_of))
    programs = [
        jax.jit(lambda x: x).lower(state).as_text() for state in (new, restored)
    ]
    assert programs[0] == programs[1]


@pytest.mark.parametrize("negatives, has_teacher", [("queue", True), ("batch", False)])
def test_a_queue_has_its_teacher_without_soft_targets(
    negatives, has_teacher, small_config
):
    objectives = ObjectivesConfig(negatives=negatives, queue_size=8)
    task = Pretraining(small_config, objectives)
    state = abstract_state(task, make_optimizer(OPTIMIZER, 10), DistillationConfig())
    assert (state.teacher is not None) == has_teacher


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


def test_moving_average_follows_quickly_at_first(setup):
    """Its decay is at most (1 + n) / (10 + n) after n updates: here 0.1."""
    state, _ = run(setup, ema_decay=0.99)
    expected = jax.tree.map(
        lambda old, new: 0.1 * old + 0.9 * new, setup[1], state.params
    )
    leaves_close(state.ema, expected, atol=1e-6)


def test_accumulated_parts_add_up_to_the_whole(setup):
    """Whatever the parts' numbers of tokens and questions."""
    task, params, batch = setup
    mask = jnp.array([[1] * 6, [1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0], [0] * 6])
    weights = jnp.array([1.0, 0.5, 0, 0, 1, 0, 1, 1])
    uneven = batch.replace(
        caption=batch.caption.replace(mask=mask), answer_weight=weights
    )
    first, second = (
        run((task, params, uneven), accumulation=parts)[1] for parts in (1, 2)
    )
    assert set(first) == set(second) and "caption_token_accuracy" in first
    for name, value in first.items():
        assert float(second[name]) == pytest.approx(float(value), rel=1e-5), name


def test_a_batch_that_does_not_divide_into_parts(setup):
    with pytest.raises(ValueError, match="A batch of 4 does not divide into 3 accumul"):
        run(setup, accumulation=3)


def test_frozen_parameters_stay_and_do_not_count(setup):
    before = setup[1]
    _, all_metrics = run(setup)
    state, metrics = run(setup, freeze=("vision", "*/mlp"))
    leaves_close(state.params["vision"], before["vision"], rtol=0)
    np.testing.assert_array_equal(
        state.params["decoder"]["layers"]["mlp"]["up"]["kernel"],
        before["decoder"]["layers"]["mlp"]["up"]["kernel"],
    )
    assert float(metrics["gradient_norm"]) < float(all_metrics["gradient_norm"])


class Counting(CaptionAndAnswer):
    """With a queue that every loss changes."""

    def init_queue(self):
        return jnp.zeros(3)

    def loss(self, *arguments, **options):
        value, output = super().loss(*arguments, **options)
        return value, output.replace(queue=output.queue + 1)


def test_a_step_that_is_not_finite_changes_only_the_counters(small_config, setup):
    task, distillation = Counting(small_config), DistillationConfig(weight=0.4)
    optimizer = make_optimizer(OPTIMIZER, 10)
    state = create_state(
        task, optimizer, distillation, jax.random.key(0), ema_decay=0.9
    )
    step = make_step(task, optimizer, distillation, ema_decay=0.9)
    good = setup[2].replace(frames=setup[2].frames.astype(jnp.float32) / 255)
    bad = good.replace(frames=good.frames.at[1, 0, 0, 0, 0].set(jnp.nan))
    names = ("params", "opt_state", "teacher", "ema", "queue")
    before, seen = jax.device_get(state), []
    for batch in (bad, bad, good, bad):
        state, metrics = step(state, batch, jax.random.key(1))
        if len(seen) < 2:
            for name in names:
                old, new = getattr(before, name), getattr(state, name)
                jax.tree.map(np.testing.assert_array_equal, old, jax.device_get(new))
        seen.append((int(metrics["skipped"]), int(metrics["skipped_in_a_row"])))
    assert seen == [(1, 1), (1, 2), (0, 0), (1, 1)]
    assert (int(state.step), int(state.skipped)) == (4, 3)
    np.testing.assert_array_equal(state.queue, 1.0)
    assert all(bool(jnp.isfinite(a).all()) for a in jax.tree.leaves(state.params))
