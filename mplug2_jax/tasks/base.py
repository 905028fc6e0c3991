"""Which modules a task uses, and what every task can do."""

import abc
import dataclasses
from functools import cached_property
from typing import Any

import flax.linen as nn
import flax.struct
import jax
from jaxtyping import Array, Float

from mplug2_jax.models.config import MPlug2Config
from mplug2_jax.models.mplug2 import HEADS, MODULES, MPlug2, init_params
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
    "action_classification": Composition(_VIDEO, "vision", "linear"),
    "image_classification": Composition(("vision", "universal"), "vision", "linear"),
    "text_classification": Composition(("universal", "text"), "text", "linear"),
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
        """The modules that exist, in the order of `MODULES` and `HEADS`."""

    @cached_property
    def model(self) -> MPlug2:
        return MPlug2(self.config, self.modules)

    def init(self, key: jax.Array) -> dict[str, Any]:
        """Fresh parameters of this task's modules."""
        return nn.meta.unbox(init_params(self.model, key))

    @abc.abstractmethod
    def normalizers(self, batch: MultimodalBatch) -> dict[str, Array]:
        """What the loss's and the metrics' sums are divided by, at least 1 each."""

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
        soft_weight: Float[Array, ""] | float = 0.0,
        queue: Any = None,
        normalizers: dict[str, Array] | None = None,
    ) -> tuple[Float[Array, ""], LossOutput]:
        """Loss of a batch, its metrics and the next queue.

        Args:
          rng: stream for dropout and drop path; None runs without them.
          teacher: parameters of the momentum teacher, or None.
          soft_weight: weight of the teacher's soft targets, in [0, 1].
          queue: what `init_queue` or the step before gave.
          normalizers: those of a larger batch that this one is a part of; the losses
            and metrics of its parts then add up to its own. None: of this batch.
        """


class LanguageModeling(Task):
    """A task whose loss is a function of logits: the decoder's, for given texts."""

    @abc.abstractmethod
    def logits(self, model: MPlug2, batch: MultimodalBatch) -> Any:
        """The forward pass of a bound model, in training form."""

    @abc.abstractmethod
    def loss_of(
        self,
        logits: Any,
        batch: MultimodalBatch,
        soft_logits: Any = None,
        soft_weight: Float[Array, ""] | float = 0.0,
        normalizers: dict[str, Array] | None = None,
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """Loss and metrics of logits, optionally against a teacher's (see `loss`)."""

    def loss(
        self,
        params: Any,
        batch: MultimodalBatch,
        rng: jax.Array | None = None,
        teacher: Any = None,
        soft_weight: Float[Array, ""] | float = 0.0,
        queue: Any = None,
        normalizers: dict[str, Array] | None = None,
    ) -> tuple[Float[Array, ""], LossOutput]:
        """See `Task.loss`."""
        rngs = None if rng is None else {"dropout": rng}
        logits = self._apply(params, batch, rngs)
        soft = None if teacher is None else self._apply(teacher, batch, None)
        soft = jax.lax.stop_gradient(soft)
        loss, metrics = self.loss_of(logits, batch, soft, soft_weight, normalizers)
        return loss, LossOutput(metrics, queue)

    def _apply(self, params, batch, rngs):
        return self.model.apply(
            {"params": params}, batch, rngs=rngs, method=lambda m, b: self.logits(m, b)
        )
