"""Pretraining (paper section 3.5): contrast, matching, masked words, instructions.

A batch of pairs serves all four objectives and its vision is encoded once: a video's
caption, masked caption and instruction are consecutive rows of one pass through the
text encoder and of one through fusion. A batch of texts serves masked words alone,
without vision, fusion and decoder. Which it is, its contents say.

The paper's pretraining code was never released. The losses are those of the family the
released weights' heads belong to (ALBEF, mPLUG v1).
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, Protocol

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from mplug2_jax.losses import Weight, bounded
from mplug2_jax.models.decoder import Memory
from mplug2_jax.models.heads import Features
from mplug2_jax.models.mplug2 import HEADS, MODULES, MPlug2
from mplug2_jax.tasks import objectives as terms
from mplug2_jax.tasks.base import Loss, LossOutput, Task
from mplug2_jax.tasks.masking import Masked, mask_words
from mplug2_jax.tasks.negatives import Negatives, draw_negatives, take_rows
from mplug2_jax.tasks.objectives import Queue, Words
from mplug2_jax.tasks.parts import in_parts
from mplug2_jax.tasks.rows import fuse_rows, interleaved, padded, separated
from mplug2_jax.types import MultimodalBatch, Tokens

NAMES = ("vlc", "vlm", "mlm", "ilm")


@dataclasses.dataclass(frozen=True)
class ObjectivesConfig:
    """What counts how much; 0 leaves out the objective and the modules of it alone.

    Values of mPLUG v1's pretraining; the paper gives none.

    Attributes:
      vlc, vlm, mlm, ilm: weights of contrast, matching, masked words, instructions.
      negatives: contrast with a queue of earlier momentum features beside the batch's,
        or with the global batch alone.
      queue_size: features kept of each modality.
      mlm_probability: share of the words to predict.
      min_temperature, max_temperature: range in which the learned one is used.
      cls_id, mask_id: ids of the vocabulary.
    """

    vlc: float = 1.0
    vlm: float = 1.0
    mlm: float = 1.0
    ilm: float = 1.0
    negatives: Literal["queue", "batch"] = "queue"
    queue_size: int = 65536
    mlm_probability: float = 0.15
    min_temperature: float = 0.001
    max_temperature: float = 0.5
    cls_id: int = 101
    mask_id: int = 103

    def __post_init__(self):
        weights = {name: getattr(self, name) for name in NAMES}
        low, high = self.temperatures

        def need(condition: bool, found: str, expected: str) -> None:
            if not condition:
                raise ValueError(f"objectives: {found}; expected {expected}.")

        need(
            min(weights.values()) >= 0 and max(weights.values()) > 0,
            f"the weights are {weights}",
            "none below 0 and one above",
        )
        need(
            self.negatives in ("queue", "batch"),
            f"negatives is {self.negatives!r}",
            "'queue' or 'batch'",
        )
        need(self.queue_size > 0, f"queue_size is {self.queue_size}", "at least 1")
        need(
            0 < self.mlm_probability < 1,
            f"mlm_probability is {self.mlm_probability}",
            "a share between 0 and 1",
        )
        need(
            0 < low <= high, f"the temperature ranges from {low} to {high}", "0 < a < b"
        )

    @property
    def temperatures(self) -> tuple[float, float]:
        return self.min_temperature, self.max_temperature

    @property
    def contrasts(self) -> bool:
        """Matching needs features too: hard negatives are the similar ones."""
        return self.vlc + self.vlm > 0

    @property
    def has_queue(self) -> bool:
        return self.negatives == "queue" and self.contrasts


@flax.struct.dataclass
class Encoded:
    """Media and their texts by themselves, row by row.

    Attributes:
      texts: states and mask by name: caption, masked caption, instruction.
    """

    vision: Float[Array, "B N D"]
    texts: dict[str, tuple[Float[Array, "B L D"], Int[Array, "B L"]]]
    features: Features | None = None


@flax.struct.dataclass
class Fused:
    """What texts and media say together; None where an objective is off.

    Attributes:
      matching: of each pair, of its text with another vision, of its vision with
        another text.
      masked, target: scores of words.
    """

    matching: Float[Array, "B 3 2"] | None = None
    masked: Float[Array, "B L V"] | None = None
    target: Float[Array, "B L V"] | None = None


@dataclasses.dataclass(frozen=True)
class Pretraining(Task):
    """The weighted sum of the objectives that a batch can serve.

    Attributes:
      objectives: what counts how much.
      shards: pieces that a batch lies in on a mesh; must divide its rows. No number
        depends on it, only how embeddings travel (`take_rows`).
    """

    objectives: ObjectivesConfig = ObjectivesConfig()
    shards: int = 1

    @property
    def modules(self) -> tuple[str, ...]:
        on = self.objectives
        used = {
            "fusion": on.vlm + on.mlm + on.ilm > 0,
            "decoder": on.ilm > 0,
            "contrastive": on.contrasts,
            "matching": on.vlm > 0,
            "mlm": on.mlm > 0,
        }
        return tuple(name for name in (*MODULES, *HEADS) if used.get(name, True))

    def init_queue(self) -> Queue | None:
        """Random unit vectors, or None where no queue is used."""
        if not self.objectives.has_queue:
            return None
        size = self.objectives.queue_size
        shape = (2, size, self.config.contrastive.width)
        noise = jax.random.normal(jax.random.key(0), shape)
        noise = noise / jnp.linalg.norm(noise, axis=-1, keepdims=True)
        return {
            "vision": noise[0],
            "text": noise[1],
            "media_id": jnp.full(size, terms.NOBODY, jnp.int32),
            "position": jnp.int32(0),
        }

    def gradients(self, params, batch, *arguments, parts=1, **options):
        """See `Task.gradients`.

        Contrast and negatives belong to the whole batch: first all of it is encoded,
        then all of it is fused, a part at a time (gradients by `in_parts`).
        """
        run = functools.partial(self.loss, parts=parts)
        run = jax.value_and_grad(run, has_aux=True)
        return run(params, batch, *arguments, **options)

    def loss(
        self,
        params: Any,
        batch: MultimodalBatch,
        rng: jax.Array | None = None,
        teacher: Any = None,
        soft_weight: Weight = 0.0,
        queue: Queue | None = None,
        parts: int = 1,
    ) -> Loss:
        """Loss of a batch of pairs or of texts, its metrics and the next queue.

        Args:
          rng: without it there is no dropout, and the masked words and the drawn
            negatives are the same each time.
          teacher, soft_weight, queue: see `Task.loss`.
          parts: see `Task.gradients`.
        """
        keys = jax.random.split(jax.random.key(0) if rng is None else rng, 3)
        models = Models(self.model, params, teacher, None if rng is None else keys[0])
        if batch.frames is None:
            masked = self.mask(keys[1], batch.require("text"))
            return self._text_loss(models, masked, soft_weight, queue, parts)
        self._check(batch, queue)
        masked = None
        if self.objectives.mlm > 0:
            masked = self.mask(keys[1], batch.require("caption"))
        return self.paired_loss(
            models, batch, masked, keys[2], soft_weight, queue, parts
        )

    def mask(self, rng: Key[Array, ""], text: Tokens) -> Masked:
        """Hides words of captions or texts."""
        on, words = self.objectives, self.config.text.vocab_size
        return mask_words(rng, text, on.mlm_probability, on.cls_id, on.mask_id, words)

    def _text_loss(
        self,
        models: "Models",
        masked: Masked,
        soft_weight: Weight,
        queue: Queue | None,
        parts: int,
    ) -> Loss:
        """Masked words of plain texts, predicted right after the text encoder."""
        if self.objectives.mlm == 0:
            raise ValueError(
                "A batch of texts serves objectives.mlm alone, which is 0; give it a "
                "weight or leave texts out of the mixture."
            )

        def words(index, masked: Masked) -> Words:
            def predict(model: MPlug2):
                return model.predict_masked(model.encode_text(masked.text))

            logits = models.student(predict, index)
            soft = models.taught(predict) if _counts(soft_weight) else None
            return terms.masked_words(logits, masked, soft, soft_weight)

        metrics = in_parts(words, parts, masked).metrics("mlm")
        return self._total(metrics), LossOutput(metrics, queue)

    def paired_loss(
        self,
        models: "Models",
        batch: MultimodalBatch,
        masked: Masked | None,
        negatives: Negatives | Key[Array, ""],
        soft_weight: Weight,
        queue: Queue | None,
        parts: int = 1,
    ) -> Loss:
        """All objectives of a batch of pairs.

        Args:
          masked: the captions with words hidden; None where MLM is off.
          negatives: those of matching, or the key to draw them with.
        """
        texts = self.texts(batch, masked)
        own = self.encode(models.student, batch, texts, parts)
        taught = self.encode(models.taught, batch, texts, parts)
        frames = batch.require("frames")
        metrics, other, alone = {}, None, jnp.zeros(len(frames), bool)
        if own.features is not None:
            keys = own.features, taught and taught.features
            same = terms.belonging(batch, queue)
            temperature = self.temperature(models)
            metrics |= terms.contrast(*keys, temperature, soft_weight, same, queue)
            inside = same[:, : len(same)]
            alone = inside.all(axis=1)
            if self.objectives.vlm > 0:
                if not isinstance(negatives, Negatives):
                    others = terms.keys_of(*keys, queue)
                    chances = terms.hard_negative_weights(
                        keys[0], others, temperature, inside
                    )
                    negatives = draw_negatives(negatives, *chances)
                other = self.others(own, negatives)
            if queue is not None:
                queue = terms.enqueue(queue, keys[1] or keys[0], batch.media_id)

        def score(index, own, taught, other, batch, masked):
            out = models.student(lambda m: self.fuse(m, own, other, batch), index)
            soft, words = None, {}
            if _counts(soft_weight):
                soft = models.taught(lambda m: self.fuse(m, taught, None, batch))
            if masked is not None:
                words["mlm"] = terms.masked_words(
                    out.masked, masked, soft and soft.masked, soft_weight
                )
            if out.target is not None:
                words["ilm"] = terms.instructed(
                    out.target, batch.answer, soft and soft.target, soft_weight
                )
            return out.matching, words

        scored, words = in_parts(score, parts, own, taught, other, batch, masked)
        if scored is not None:
            metrics |= terms.matching(scored, alone)
        for name, predicted in words.items():
            metrics |= predicted.metrics(name)
        return self._total(metrics), LossOutput(metrics, queue)

    def encode(
        self, run: "Run", batch: MultimodalBatch, texts: dict[str, Tokens], parts: int
    ) -> Any:
        """`Encoded` of all rows, by student or teacher; None where there is none."""

        def part(index, batch, texts):
            return run(lambda m: self._encode(m, batch, texts), index)

        return in_parts(part, parts, batch, texts)

    def _encode(
        self, model: MPlug2, batch: MultimodalBatch, texts: dict[str, Tokens]
    ) -> Encoded:
        vision = model.encode_vision(batch.require("frames"), batch.is_video)
        encoded = model.encode_text_stages(interleaved(list(texts.values())))
        stages = dict(zip(texts, separated(encoded, len(texts)), strict=True))
        rows = {name: (stages[name].states, texts[name].mask) for name in texts}
        out = Encoded(vision.embeds, rows)
        if self.objectives.contrasts:
            out = dataclasses.replace(
                out, features=model.contrast(vision, stages["caption"])
            )
        return out

    def fuse(
        self,
        model: MPlug2,
        own: Encoded,
        other: tuple[Any, Any] | None,
        batch: MultimodalBatch,
    ) -> Fused:
        """The second half of a bound model's pass.

        Args:
          other: negatives, a vision and a text for each row; None: no matching.
        """
        rows = dict(own.texts)
        pair, out = rows.pop("caption", None), Fused()
        if pair is not None and other is not None:
            rows["pair"], rows["text"] = pair, other[1]
        fused = fuse_rows(model, own.vision, rows)
        if pair is not None and other is not None:
            texts = (fused["pair"], model.fuse(other[0], *pair), fused["text"])
            scores = [model.match(found.text) for found in texts]
            out = dataclasses.replace(out, matching=jnp.stack(scores, axis=1))
        if "masked" in rows:
            out = dataclasses.replace(
                out, masked=model.predict_masked(fused["masked"].text)
            )
        if "instruction" in rows:
            source = fused["instruction"]
            memory = Memory.of(source.vision, source.text, rows["instruction"][1])
            out = dataclasses.replace(
                out, target=model.decode(batch.require("answer"), memory)
            )
        return out

    def temperature(self, models: "Models") -> Float[Array, ""]:
        """The learned one, within its bounds."""
        learned = models.student(lambda m: m.temperature())
        return bounded(learned, *self.objectives.temperatures)

    def others(self, own: Encoded, negatives: Negatives) -> tuple[Any, Any]:
        """Vision and text of another row for each, from the global batch."""

        def take(rows, index):
            return jax.tree.map(lambda x: take_rows(x, index, self.shards), rows)

        caption = own.texts["caption"]
        return take(own.vision, negatives.vision), take(caption, negatives.text)

    def _total(self, metrics: dict[str, Array]) -> Float[Array, ""]:
        weights = {f"loss_{name}": getattr(self.objectives, name) for name in NAMES}
        found = [metrics[name] * weights[name] for name in weights if name in metrics]
        return jnp.stack(found).sum()

    def _check(self, batch: MultimodalBatch, queue: Queue | None) -> None:
        """Raises ValueError for shapes that the objectives cannot use."""
        rows = len(batch.require("frames"))
        for name in ("caption", "question", "answer"):
            text = getattr(batch, name)
            if text is not None and len(text.mask) != rows:
                raise ValueError(
                    f"The batch has {len(text.mask)} rows of {name} for {rows} videos; "
                    "pretraining reads one each (config.batch)."
                )
        if self.objectives.vlm > 0 and rows < 2:
            raise ValueError(
                "A batch of one pair has no negatives for objectives.vlm; expected at "
                "least 2."
            )
        if rows % self.shards:
            raise ValueError(
                f"{rows} pairs do not divide into the mesh's {self.shards} pieces; "
                "change the batch size or the mesh."
            )
        if queue is not None and rows > len(queue["text"]):
            raise ValueError(
                f"{rows} pairs do not fit into objectives.queue_size "
                f"{len(queue['text'])}; expected at least as many."
            )

    def texts(self, batch: MultimodalBatch, masked: Masked | None) -> dict[str, Tokens]:
        """The texts to encode, padded to one length."""
        texts = {}
        if self.objectives.contrasts:
            texts["caption"] = batch.require("caption")
        if masked is not None:
            texts["masked"] = masked.text
        if self.objectives.ilm > 0 and batch.question is not None:
            texts["instruction"] = batch.question
        if not texts:
            raise ValueError(
                "The batch has no question, which objectives.ilm reads and nothing "
                "else is on; let the data pipeline give instructions."
            )
        length = max(text.mask.shape[1] for text in texts.values())
        return {name: padded(text, length) for name, text in texts.items()}


def _counts(weight: Weight) -> bool:
    """Whether what has this weight need be computed; of a traced one it must."""
    return not (isinstance(weight, float) and weight == 0)


class Run(Protocol):
    """Applies one model's parameters to a method of a bound model."""

    def __call__(
        self, method: Callable[[MPlug2], Any], index: int | Array = 0
    ) -> Any: ...


@dataclasses.dataclass(frozen=True)
class Models:
    """The student and, if there is one, its momentum teacher."""

    model: MPlug2
    params: Any
    teacher: Any = None
    dropout: Key[Array, ""] | None = None

    def student(self, method: Callable[[MPlug2], Any], index: int | Array = 0) -> Any:
        """With dropout of its own for the part `index` of the batch."""
        rngs = None
        if self.dropout is not None:
            rngs = {"dropout": jax.random.fold_in(self.dropout, index)}
        return self.model.apply({"params": self.params}, rngs=rngs, method=method)

    def taught(self, method: Callable[[MPlug2], Any], index: int | Array = 0) -> Any:
        """Without dropout and gradients; None without a teacher."""
        if self.teacher is None:
            return None
        out = self.model.apply({"params": self.teacher}, method=method)
        return jax.lax.stop_gradient(out)
