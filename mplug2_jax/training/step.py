"""The training state and the one pure function that advances it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from mplug2_jax.tasks.base import Task
from mplug2_jax.types import MultimodalBatch


@dataclasses.dataclass(frozen=True)
class DistillationConfig:
    """Momentum teacher (paper section 3.5; values of upstream's QA configuration).

    Attributes:
      weight: of the soft targets; 0 means no teacher at all, as in upstream's results.
      momentum: of the teacher's moving average.
      ramp_steps: the weight grows linearly to its value in so many steps (upstream:
        the first epoch).
    """

    weight: float = 0.0
    momentum: float = 0.995
    ramp_steps: int = 1000


@flax.struct.dataclass
class TrainState:
    """Everything a step changes; `teacher` is None without distillation."""

    step: Int[Array, ""]
    params: Any
    opt_state: Any
    teacher: Any = None


Step = Callable[
    [TrainState, MultimodalBatch, jax.Array], tuple[TrainState, dict[str, Array]]
]


def init_state(
    params: Any,
    optimizer: optax.GradientTransformation,
    distillation: DistillationConfig,
    teacher: Any = None,
) -> TrainState:
    """The state at step 0; a missing teacher starts as a copy of the parameters."""
    if distillation.weight > 0 and teacher is None:
        teacher = jax.tree.map(jnp.copy, params)
    return TrainState(jnp.int32(0), params, optimizer.init(params), teacher)


def make_step(
    task: Task,
    optimizer: optax.GradientTransformation,
    distillation: DistillationConfig,
    accumulation: int = 1,
) -> Step:
    """Builds `(state, batch, rng) -> (state, metrics)`, compiled, the state donated.

    `rng` is the run's key; step k folds k into it, so that it is the same whether
    reached straight or resumed. With accumulation the batch is processed in as many
    parts of equal size, whose losses and gradients are averaged.
    """

    def gradients(state: TrainState, batch: MultimodalBatch, rng: jax.Array):
        weight = soft_weight(distillation, state.step)

        def loss(params):
            return task.loss(params, batch, rng, state.teacher, weight)

        return jax.value_and_grad(loss, has_aux=True)(state.params)

    def accumulated(state, batch, rng):
        def part(carry, inputs):
            index, batch = inputs
            (_, metrics), grads = gradients(
                state, batch, jax.random.fold_in(rng, index)
            )
            return jax.tree.map(jnp.add, carry, (grads, metrics)), None

        parts = jax.tree.map(lambda a: a.reshape(accumulation, -1, *a.shape[1:]), batch)
        first = jax.tree.map(lambda a: a[0], parts)
        zeros = jax.eval_shape(lambda: gradients(state, first, rng))
        (_, metrics), grads = zeros
        zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), (grads, metrics))
        total, _ = jax.lax.scan(part, zeros, (jnp.arange(accumulation), parts))
        return jax.tree.map(lambda a: a / accumulation, total)

    def step(state: TrainState, batch: MultimodalBatch, rng: jax.Array):
        rng = jax.random.fold_in(rng, state.step)
        if accumulation > 1:
            grads, metrics = accumulated(state, batch, rng)
        else:
            (_, metrics), grads = gradients(state, batch, rng)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        teacher = state.teacher
        if teacher is not None:
            rate = 1 - distillation.momentum
            teacher = optax.incremental_update(params, teacher, rate)
        metrics["gradient_norm"] = optax.global_norm(grads)
        return TrainState(state.step + 1, params, opt_state, teacher), metrics

    return jax.jit(step, donate_argnums=0)


def soft_weight(config: DistillationConfig, step: Int[Array, ""]):
    """Weight of the soft targets at `step`."""
    return config.weight * jnp.minimum(1.0, step / max(config.ramp_steps, 1))
