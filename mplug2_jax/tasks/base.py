"""Which modules a task uses, and what every task can do."""

import abc
import dataclasses
from functools import cached_property
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mplug2_jax.losses import Weight
from mplug2_jax.models.config import MPlug2Config
from mplug2_jax.models.mplug2 import HEADS, MODULES, MPlug2, init_params
from mplug2_jax.tasks.parts import split
from mplug2_jax.types import MultimodalBatch


@dataclasses.dataclass(frozen=True)
class Composition:
    """A row of the composition table (paper table 1 and figure 1)."""

    modules: tuple[str, ...]
    universal: str  # which inputs pass the universal layers
    head: str


@flax.struct.dataclass
class LossOutput:
    """What a loss gives beside its value; `queue` is None where a task has none."""

    metrics: dict[str, Array]
    queue: Any = None


Loss = tuple[Float[Array, ""], LossOutput]

_VIDEO = ("vision", "local_temporal", "universal")
_PAIRED = (*_VIDEO, "text", "fusion")

COMPOSITION: dict[str, Composition] = {
    "question_answering": Composition(MODULES, "both", "LM on the answer"),
    "captioning": Composition((*_VIDEO, "decoder"), "vision", "LM after a prompt"),
    "captioning_by_instruction": Composition(MODULES, "both", "LM"),
    "retrieval": Composition(
        (*_PAIRED, "contrastive", "matching"), "both", "VLC + VLM"
    ),
    "grounding": Composition(
        ("vision", "universal", "text", "fusion", "decoder"), "both", "coordinates"
    ),
    "action_classification": Composition((*_VIDEO, "classifier"), "vision", "linear"),
    "image_classification": Composition(
        ("vision", "universal", "classifier"), "vision", "linear"
    ),
    "text_classification": Composition(
        ("universal", "text", "classifier"), "text", "linear"
    ),
    "pair_classification": Composition((*_PAIRED, "classifier"), "both", "linear"),
    "pretraining_paired": Composition(
        (*MODULES, *HEADS), "both", "VLC + VLM + MLM + ILM"
    ),
    "pretraining_text": Composition(("universal", "text", "mlm"), "text", "MLM"),
}


@dataclasses.dataclass(frozen=True)
class Task(abc.ABC):
    """A model made of the task's modules, and its loss.

    Attributes:
      config: the model's shapes and numerics.
    """

    config: MPlug2Config

    @property
    @abc.abstractmethod
    def modules(self) -> tuple[str, ...]:
        """The modules that exist, in the order of `ALL_MODULES`."""

    @cached_property
    def model(self) -> MPlug2:
        return MPlug2(self.config, self.modules)

    def init(self, key: jax.Array) -> dict[str, Any]:
        """Fresh parameters of this task's modules."""
        return nn.meta.unbox(init_params(self.model, key))

    def init_queue(self) -> Any:
        """What the loss carries from step to step beside parameters; None here."""
        return None

    @abc.abstractmethod
    def loss(
        self,
        params: Any,
        batch: MultimodalBatch,
        rng: jax.Array | None = None,
        teacher: Any = None,
        soft_weight: Weight = 0.0,
        queue: Any = None,
    ) -> Loss:
        """Loss of a batch, its metrics and the next queue.

        Args:
          rng: stream for dropout and drop path; None runs without them.
          teacher: parameters of the momentum teacher, or None.
          soft_weight: weight of the teacher's soft targets, in [0, 1].
          queue: what `init_queue` or the step before gave.
        """

    @abc.abstractmethod
    def gradients(
        self,
        params: Any,
        batch: MultimodalBatch,
        rng: jax.Array | None = None,
        teacher: Any = None,
        soft_weight: Weight = 0.0,
        queue: Any = None,
        parts: int = 1,
    ) -> tuple[Loss, Any]:
        """The loss and its gradients.

        Args:
          parts: what the batch is processed in, one after the other, to hold fewer
            activations. They see other dropout; nothing else depends on it.
        """


class SupervisedTask(Task):
    """A task whose loss is a sum over the rows of logits."""

    @abc.abstractmethod
    def logits(self, model: MPlug2, batch: MultimodalBatch) -> Any:
        """The forward pass of a bound model, in training form."""

    @abc.abstractmethod
    def loss_of(
        self,
        logits: Any,
        batch: MultimodalBatch,
        soft_logits: Any = None,
        soft_weight: Weight = 0.0,
        normalizers: dict[str, Array] | None = None,
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """Loss and metrics of logits, optionally against a teacher's (see `loss`)."""

    @abc.abstractmethod
    def normalizers(self, batch: MultimodalBatch) -> dict[str, Array]:
        """What the loss's and the metrics' sums are divided by, at least 1 each."""

    def loss(
        self,
        params: Any,
        batch: MultimodalBatch,
        rng: jax.Array | None = None,
        teacher: Any = None,
        soft_weight: Weight = 0.0,
        queue: Any = None,
        normalizers: dict[str, Array] | None = None,
    ) -> Loss:
        """See `Task.loss`.

        Args:
          normalizers: those of a larger batch that this one is a part of; the losses
            and metrics of its parts then add up to its own. None: of this batch.
        """
        rngs = None if rng is None else {"dropout": rng}
        logits = self._apply(params, batch, rngs)
        soft = None if teacher is None else self._apply(teacher, batch, None)
        soft = jax.lax.stop_gradient(soft)
        loss, metrics = self.loss_of(logits, batch, soft, soft_weight, normalizers)
        return loss, LossOutput(metrics, queue)

    def gradients(
        self,
        params,
        batch,
        rng=None,
        teacher=None,
        soft_weight=0.0,
        queue=None,
        parts=1,
    ):
        """See `Task.gradients`; each part's are complete before the next one's."""
        run = jax.value_and_grad(self.loss, has_aux=True)
        if parts == 1:
            return run(params, batch, rng, teacher, soft_weight, queue)
        totals = self.normalizers(batch)

        def part(index, rows):
            key = None if rng is None else jax.random.fold_in(rng, index)
            return run(params, rows, key, teacher, soft_weight, None, totals)

        def add(total, inputs):
            return jax.tree.map(jnp.add, total, part(*inputs)), None

        pieces = jnp.arange(parts), split(batch, parts, self.units(batch))
        shapes = jax.eval_shape(part, *jax.tree.map(lambda a: a[0], pieces))
        zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
        ((loss, out), grads), _ = jax.lax.scan(add, zeros, pieces)
        return (loss, LossOutput(out.metrics, queue)), grads

    def units(self, batch: MultimodalBatch) -> int:
        """Rows that parts are made of, each with all that belongs to it."""
        return len(batch.require("frames"))

    def _apply(self, params, batch, rngs):
        return self.model.apply(
            {"params": params}, batch, rngs=rngs, method=lambda m, b: self.logits(m, b)
        )
