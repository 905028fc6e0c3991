"""Classification: one linear map of class tokens (mPLUG-2's understanding tasks).

What is classified is a medium, a text, or a text about media; the class token is that
of vision after the universal layers, of the text, or of the text fused with vision.
"""

import dataclasses
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mplug2_jax.models.mplug2 import MPlug2
from mplug2_jax.models.vision import normalize_frames
from mplug2_jax.sharding.replicas import by_rows
from mplug2_jax.tasks.base import COMPOSITION, SupervisedTask
from mplug2_jax.types import MultimodalBatch, Tokens


@dataclasses.dataclass(frozen=True)
class ClassificationConfig:
    """How a classifier is trained.

    Attributes:
      label_smoothing: share of each target that all classes get evenly.
      mixup: in training each medium is mixed with another of the batch, and so are
        their targets; the shares are drawn from Beta(mixup, mixup) (arXiv 1710.09412).
        0: none. Not of texts.
      regression: labels are numbers, and the loss is the squared error.
    """

    label_smoothing: float = 0.0
    mixup: float = 0.0
    regression: bool = False

    def __post_init__(self):
        if not 0 <= self.label_smoothing < 1 or self.mixup < 0:
            raise ValueError(
                f"classification.label_smoothing is {self.label_smoothing} and mixup "
                f"{self.mixup}; expected a share below 1 and a number >= 0."
            )
        if self.regression and (self.label_smoothing or self.mixup):
            raise ValueError(
                "classification.regression knows neither label_smoothing nor mixup; "
                "set them to 0."
            )


@dataclasses.dataclass(frozen=True)
class Classification(SupervisedTask):
    """Cross-entropy of classes, or the squared error of a number.

    Attributes:
      row: of the composition table.
    """

    classification: ClassificationConfig = ClassificationConfig()
    row: ClassVar[str]

    @property
    def modules(self) -> tuple[str, ...]:
        return COMPOSITION[self.row].modules

    def logits(self, model: MPlug2, batch: MultimodalBatch):
        return model.classify(class_tokens(model, batch))

    def units(self, batch: MultimodalBatch) -> int:
        return len(batch.require("label" if batch.frames is None else "frames"))

    def loss(self, params, batch, rng=None, *rest, **options):
        """See `Task.loss`; in training media are mixed up."""
        if rng is not None and self.classification.mixup > 0:
            rng, key = jax.random.split(rng)
            batch = self._mixed(batch, key)
        return super().loss(params, batch, rng, *rest, **options)

    def _mixed(self, batch: MultimodalBatch, key: jax.Array) -> MultimodalBatch:
        alpha = self.classification.mixup
        share = jax.random.beta(key, alpha, alpha)

        def mix(rows: Array) -> Array:
            return share * rows + (1 - share) * rows[::-1]

        frames = normalize_frames(batch.require("frames"), jnp.float32)
        targets = self._targets(batch.require("label"))
        return batch.replace(frames=mix(frames), label=mix(targets))  # type: ignore

    def _targets(self, label: Array) -> Float[Array, "R K"]:
        """Distributions over the classes; zero where a label does not count."""
        if label.ndim == 2:
            return label
        count, smooth = self.config.classifier.num_classes, self.classification
        targets = jax.nn.one_hot(label, count)  # of -1: zeros
        even = smooth.label_smoothing / count * (label >= 0)[:, None]
        return (1 - smooth.label_smoothing) * targets + even

    def normalizers(self, batch: MultimodalBatch):
        label = batch.require("label")
        if self.classification.regression:
            counts = ~jnp.isnan(label)
        else:
            counts = label >= 0 if label.ndim == 1 else label.sum(1) > 0
        return {"labels": jnp.maximum(counts.sum(), 1)}

    def loss_of(
        self, logits, batch, soft_logits=None, soft_weight=0.0, normalizers=None
    ):
        total = (normalizers or self.normalizers(batch))["labels"]
        label = batch.require("label")
        if self.classification.regression:
            counts = ~jnp.isnan(label)
            errors = jnp.where(counts, logits[:, 0] - jnp.where(counts, label, 0), 0)
            loss = jnp.sum(errors**2) / total
            return loss, {"class_loss": loss}
        targets = self._targets(label)
        counts = targets.sum(axis=1) > 0
        if soft_logits is not None:
            soft = jax.nn.softmax(soft_logits) * counts[:, None]
            targets = (1 - soft_weight) * targets + soft_weight * soft
        loss = -jnp.sum(targets * jax.nn.log_softmax(logits)) / total
        hits = (logits.argmax(axis=1) == targets.argmax(axis=1)) & counts
        return loss, {"class_loss": loss, "class_accuracy": hits.sum() / total}


class ActionClassification(Classification):
    """Of videos."""

    row = "action_classification"


class ImageClassification(Classification):
    """Of still images."""

    row = "image_classification"


class TextClassification(Classification):
    """Of one text, or of two joined."""

    row = "text_classification"


class PairClassification(Classification):
    """Of texts about a medium, or about several images together.

    Each image is read with the text by itself, and the class tokens stand side by side
    (BEiT-3, arXiv 2208.10442, treats NLVR2 so).
    """

    row = "pair_classification"


def class_tokens(model: MPlug2, batch: MultimodalBatch) -> Float[Array, "R M*D"]:
    """The class tokens that a batch is classified by; M > 1 with several images."""
    frames, text = batch.frames, batch.text
    if frames is None:
        return model.encode_text(batch.require("text"))[:, 0]
    media = 1 if batch.is_video else frames.shape[1]
    if media > 1:
        frames = frames.reshape(-1, 1, *frames.shape[2:])
    vision = model.encode_vision(frames, batch.is_video).embeds
    if text is None:
        return vision[:, 0].reshape(len(vision) // media, -1)
    return fused_class_tokens(model, vision, text, media)


def fused_class_tokens(
    model: MPlug2, vision: Float[Array, "B*M N D"], text: Tokens, media: int = 1
) -> Float[Array, "B*Q M*D"]:
    """Class tokens of texts fused with M media, Q consecutive texts about each."""
    groups = len(vision) // media
    questions = len(text.mask) // groups

    def for_each(rows: Array) -> Array:
        """B*Q rows as B*M*Q: each medium of a group reads all its texts."""
        grouped = rows.reshape(groups, 1, questions, *rows.shape[1:])
        shape = (groups, media, questions, *rows.shape[1:])
        return jnp.broadcast_to(grouped, shape).reshape(-1, *rows.shape[1:])

    states = for_each(model.encode_text(text))
    tokens = model.fuse(vision, states, for_each(text.mask)).text[:, 0]
    tokens = tokens.reshape(groups, media, questions, -1)
    return jnp.moveaxis(tokens, 1, 2).reshape(groups * questions, -1)


@functools.partial(jax.jit, static_argnames=("model", "views"))
def media_scores(
    model: MPlug2, params: Any, vision: Float[Array, "B*V*M N D"], *, views: int = 1
) -> Float[Array, "B K"]:
    """Logarithms of the classes' probabilities, whose mean over V views is taken.

    In regression, K = 1, the mean of the numbers. M is the classifier's.
    """

    def run(model: MPlug2):
        width = model.config.classifier.num_media * model.config.text.width
        return model.classify(vision[:, 0].reshape(-1, width))

    scores: Array = model.apply({"params": params}, method=run)  # type: ignore
    scores = scores.reshape(-1, views, scores.shape[-1])  # B V K
    if scores.shape[-1] == 1:
        return scores.mean(axis=1)
    return log_mean_probabilities(scores)


def log_mean_probabilities(scores: Float[Array, "B V K"]) -> Float[Array, "B K"]:
    """Of the softmax of each view's scores."""
    logs = jax.nn.log_softmax(scores)
    return jax.nn.logsumexp(logs, axis=1) - jnp.log(scores.shape[1])


@functools.partial(by_rows, static_argnames=("model",))
def text_scores(model: MPlug2, params: Any, text: Tokens) -> Float[Array, "R K"]:
    """Scores of the classes of texts; in regression the number itself, K = 1."""

    def run(model: MPlug2):
        return model.classify(model.encode_text(text)[:, 0])

    return model.apply({"params": params}, method=run)  # type: ignore[return-value]


@functools.partial(by_rows, static_argnames=("model", "media"), shared=("vision",))
def pair_scores(
    model: MPlug2,
    params: Any,
    vision: Float[Array, "B*M N D"],
    groups: Int[Array, "G"],
    text: Tokens,
    *,
    media: int = 1,
) -> Float[Array, "G*Q K"]:
    """Scores of the classes of G groups of Q texts about media.

    Args:
      groups: which of the B media each group is about.
      text: G * Q rows, those of a group consecutive.
      media: M, the images that make up one medium.
    """

    def run(model: MPlug2):
        its = vision.reshape(-1, media, *vision.shape[1:])[groups]
        its = its.reshape(-1, *vision.shape[1:])  # G*M N D
        return model.classify(fused_class_tokens(model, its, text, media))

    return model.apply({"params": params}, method=run)  # type: ignore[return-value]
