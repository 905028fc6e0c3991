"""The training state, how it is born on a mesh, and the function that advances it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from absl import logging
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding
from jaxtyping import Array, Bool, Float, Int

from mplug2_jax.losses import Weight
from mplug2_jax.models.mplug2 import init_params
from mplug2_jax.sharding import partition
from mplug2_jax.sharding.mesh import is_single
from mplug2_jax.tasks.base import Task
from mplug2_jax.training.optimizer import Optimizer, zero_frozen
from mplug2_jax.types import MultimodalBatch


@dataclasses.dataclass(frozen=True)
class DistillationConfig:
    """Momentum teacher (paper section 3.5; values of upstream's QA configuration).

    Attributes:
      weight: of the soft targets; 0 means none, as in upstream's results, and a teacher
        alone where a queue keeps its features.
      momentum: of the teacher's moving average.
      ramp_steps: the weight grows linearly to its value in so many steps (upstream:
        the first epoch).
    """

    weight: float = 0.0
    momentum: float = 0.995
    ramp_steps: int = 1000

    def needs_teacher(self, queue: Any) -> bool:
        """For soft targets, or for the features that a queue keeps."""
        return self.weight > 0 or queue is not None


@flax.struct.dataclass
class TrainState:
    """Everything a step changes; None where the run has no such part.

    Attributes:
      step: batches seen. Skipped ones count: data and random numbers follow it. The
        learning rate follows the optimizer's own count, without them.
      teacher: momentum copy of the parameters.
      queue: what the task's loss carries on (momentum features of pretraining).
      ema: moving average of the parameters, for evaluation.
      skipped: steps without an update, their loss or gradient not being finite.
      skipped_in_a_row: those since the last update.
    """

    step: Int[Array, ""]
    params: Any
    opt_state: Any
    teacher: Any
    queue: Any
    ema: Any
    skipped: Int[Array, ""]
    skipped_in_a_row: Int[Array, ""]


def init_state(
    params: Any,
    optimizer: Optimizer,
    distillation: DistillationConfig,
    teacher: Any = None,
    queue: Any = None,
    ema_decay: float = 0.0,
) -> TrainState:
    """The state at step 0; a missing teacher starts as a copy of the parameters."""
    if teacher is None and distillation.needs_teacher(queue):
        teacher = jax.tree.map(jnp.copy, params)
    return TrainState(
        step=jnp.int32(0),
        params=params,
        opt_state=optimizer.init(params),
        teacher=teacher,
        queue=queue,
        ema=jax.tree.map(jnp.copy, params) if ema_decay > 0 else None,
        skipped=jnp.int32(0),
        skipped_in_a_row=jnp.int32(0),
    )


def abstract_state(
    task: Task,
    optimizer: Optimizer,
    distillation: DistillationConfig,
    *,
    ema_decay: float = 0.0,
    mesh: Mesh | None = None,
) -> TrainState:
    """Shapes and types of the state `create_state` gives, with shardings on a mesh."""

    def init(key: jax.Array) -> TrainState:
        queue = task.init_queue()
        params = task.init(key)
        return init_state(params, optimizer, distillation, None, queue, ema_decay)

    state = jax.eval_shape(init, jax.random.key(0))
    if mesh is None or is_single(mesh):
        return state
    shardings = partition.state_shardings(state, _boxed(task), mesh)
    return jax.tree.map(lambda leaf, at: leaf.update(sharding=at), state, shardings)


def create_state(
    task: Task,
    optimizer: Optimizer,
    distillation: DistillationConfig,
    key: jax.Array,
    *,
    ema_decay: float = 0.0,
    mesh: Mesh | None = None,
    params: Any = None,
    teacher: Any = None,
) -> TrainState:
    """The state at step 0, made where it belongs: no device ever holds more.

    Args:
      key: draws the parameters that are not given.
      params, teacher: from a checkpoint, whole and on the host, the same on every
        process; the state takes them over.

    Raises:
      ValueError: a parameter without a sharding rule, or a pattern of
        `OptimizerConfig.freeze` that names none.
    """

    def init(key, params, teacher):
        params = task.init(key) if params is None else params
        queue = task.init_queue()
        return init_state(params, optimizer, distillation, teacher, queue, ema_decay)

    if mesh is None or is_single(mesh):
        device = jax.devices()[0] if mesh is None else mesh.devices.flat[0]
        # Said outright, as a restored state says it: both then have one compiled step.
        there = SingleDeviceSharding(device)
        return jax.jit(init, out_shardings=there)(key, params, teacher)
    if whole := partition.undivided(_boxed(task), mesh):
        logging.warning("Kept whole, their size not dividing: %s.", "; ".join(whole))
    abstract = abstract_state(
        task, optimizer, distillation, ema_decay=ema_decay, mesh=mesh
    )
    shardings = _shardings(abstract)
    if params is not None:
        params = partition.distribute(params, shardings.params)
    if teacher is not None:
        teacher = partition.distribute(teacher, shardings.params)
    return jax.jit(init, out_shardings=shardings)(key, params, teacher)


def make_step(
    task: Task,
    optimizer: Optimizer,
    distillation: DistillationConfig,
    accumulation: int = 1,
    *,
    ema_decay: float = 0.0,
    mesh: Mesh | None = None,
) -> Callable[
    [TrainState, MultimodalBatch, jax.Array], tuple[TrainState, dict[str, Array]]
]:
    """Builds `(state, batch, rng) -> (state, metrics)`, compiled, the state donated.

    `rng` is the run's key; step k folds k into it, so that it is the same whether
    reached straight or resumed.

    A step whose loss or gradient norm is not finite changes nothing but the counters.

    Args:
      accumulation: parts that the batch is processed in, see `Task.gradients`.
      ema_decay: of the moving average of the parameters; 0 keeps none. The first
        updates follow faster: min(decay, (1 + n) / (10 + n)) after n of them.
      mesh: state and batch are divided over it (`create_state`, `shard_batch`).
    """

    def step(state: TrainState, batch: MultimodalBatch, rng: jax.Array):
        partition.check_batch(partition.units(batch), mesh, accumulation)
        rng = jax.random.fold_in(rng, state.step)
        weight = soft_weight(distillation, state.step)
        with partition.on_mesh(mesh):
            (loss, output), grads = task.gradients(
                *(state.params, batch, rng, state.teacher, weight, state.queue),
                parts=accumulation,
            )
        grads = zero_frozen(grads, optimizer.freeze)
        norm = optax.tree.norm(grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        state = _advance(
            state,
            jnp.isfinite(loss) & jnp.isfinite(norm),
            params=params,
            opt_state=opt_state,
            queue=output.queue,
            teacher=_follow(state.teacher, params, 1 - distillation.momentum),
            ema=_follow(state.ema, params, 1 - _decay(ema_decay, state)),
        )
        row = state.skipped_in_a_row
        skips = {"skipped": (row > 0).astype(jnp.float32), "skipped_in_a_row": row}
        return state, {"loss": loss} | output.metrics | {"gradient_norm": norm} | skips

    if mesh is None or is_single(mesh):
        return jax.jit(step, donate_argnums=0)
    abstract = abstract_state(
        task, optimizer, distillation, ema_decay=ema_decay, mesh=mesh
    )
    state, everywhere = _shardings(abstract), NamedSharding(mesh, PartitionSpec())
    return jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(state, partition.batch_sharding(mesh), everywhere),
        out_shardings=(state, everywhere),
    )


def soft_weight(config: DistillationConfig, step: Int[Array, ""]) -> Weight:
    """Weight of the soft targets at `step`; where there are none, the number 0."""
    if config.weight == 0:
        return 0.0
    return config.weight * jnp.minimum(1.0, step / max(config.ramp_steps, 1))


def _advance(state: TrainState, finite: Bool[Array, ""], **changed: Any) -> TrainState:
    """The next state: with what has changed, or if not finite one more step skipped."""
    before = {name: getattr(state, name) for name in changed}
    kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), changed, before)
    return dataclasses.replace(
        state,
        step=state.step + 1,
        skipped=state.skipped + ~finite,
        skipped_in_a_row=jnp.where(finite, 0, state.skipped_in_a_row + 1),
        **kept,
    )


def _follow(average: Any, params: Any, rate: Float[Array, ""] | float) -> Any:
    if average is None:
        return None
    return optax.incremental_update(params, average, rate)  # type: ignore[arg-type]


def _decay(ema_decay: float, state: TrainState) -> Float[Array, ""]:
    updates = state.step - state.skipped
    return jnp.minimum(ema_decay, (1 + updates) / (10 + updates))


def _boxed(task: Task) -> Any:
    return jax.eval_shape(lambda: init_params(task.model, jax.random.key(0)))


def _shardings(state: TrainState) -> TrainState:
    return jax.tree.map(lambda leaf: leaf.sharding, state)
