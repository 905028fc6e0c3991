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
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from mplug2_jax.losses import Weight, bounded
from mplug2_jax.models.decoder import Memory
from mplug2_jax.models.heads import Features
from mplug2_jax.models.mplug2 import HEADS, MODULES, MPlug2
from mplug2_jax.tasks import objectives as terms
from mplug2_jax.tasks.base import LossOutput, Task
from mplug2_jax.tasks.masking import Masked, mask_words
from mplug2_jax.tasks.negatives import (
    Negatives,
    draw_negatives,
    same_texts,
    take_rows,
)
from mplug2_jax.tasks.objectives import Outputs, Queue
from mplug2_jax.tasks.rows import fuse_rows, interleaved, padded, separated
from mplug2_jax.types import MultimodalBatch, Tokens

T = TypeVar("T")
NAMES = ("vlc", "vlm", "mlm", "ilm")
Loss = tuple[Float[Array, ""], LossOutput]
Choose = Callable[[Features, Float[Array, ""]], Negatives]


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
        low, high = self.min_temperature, self.max_temperature

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


@dataclasses.dataclass(frozen=True)
class Pretraining(Task):
    """The weighted sum of the objectives that a batch can serve.

    With gradient accumulation each part is contrasted with itself and the queue, and
    its words are masked for itself: those terms depend on the number of parts.

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
            "contrastive": self.contrasts,
            "matching": on.vlm > 0,
            "mlm": on.mlm > 0,
        }
        return tuple(name for name in (*MODULES, *HEADS) if used.get(name, True))

    @property
    def contrasts(self) -> bool:
        """Matching needs features too: hard negatives are the similar ones."""
        return self.objectives.vlc + self.objectives.vlm > 0

    def init_queue(self) -> Queue | None:
        """Random unit vectors, or None where no queue is used."""
        if self.objectives.negatives != "queue" or not self.contrasts:
            return None
        shape = (2, self.objectives.queue_size, self.config.contrastive.width)
        noise = jax.random.normal(jax.random.key(0), shape)
        noise = noise / jnp.linalg.norm(noise, axis=-1, keepdims=True)
        return {"vision": noise[0], "text": noise[1], "position": jnp.int32(0)}

    def normalizers(self, batch: MultimodalBatch) -> dict[str, Array]:
        """What sums over the batch are divided by: its rows, the targets' tokens."""
        text = batch.frames is None
        rows = len(batch.require("text").mask if text else batch.require("frames"))
        found = {"rows": jnp.float32(rows)}
        if batch.answer is not None:
            tokens = (batch.answer.mask[:, 1:] > 0).sum()
            found["target_tokens"] = jnp.maximum(tokens, 1)
        return found

    def loss(
        self,
        params: Any,
        batch: MultimodalBatch,
        rng: jax.Array | None = None,
        teacher: Any = None,
        soft_weight: Weight = 0.0,
        queue: Queue | None = None,
        normalizers: dict[str, Array] | None = None,
    ) -> Loss:
        """Loss of a batch of pairs or of texts, its metrics and the next queue.

        Args:
          rng: without it there is no dropout, and the masked words and the drawn
            negatives are the same each time.
          teacher, soft_weight, queue: see `Task.loss`.
          normalizers: those of the whole batch, where this is a part of it.
        """
        keys = jax.random.split(jax.random.key(0) if rng is None else rng, 3)
        dropout = None if rng is None else keys[0]
        loss_of = {
            "soft_weight": soft_weight,
            "queue": queue,
            "normalizers": normalizers or self.normalizers(batch),
        }
        if batch.frames is None:
            masked = self.mask(keys[1], batch.require("text"))
            return self.text_loss(params, masked, teacher, dropout, **loss_of)
        self._check(batch, queue)
        masked = None
        if self.objectives.mlm > 0:
            masked = self.mask(keys[1], batch.require("caption"))
        given = {"dropout": dropout, "teacher": teacher, "queue": queue}
        outputs = self.paired_outputs(params, batch, masked, keys[2], **given)
        return self.paired_loss(*outputs, batch, masked, **loss_of)

    def mask(self, rng: Key[Array, ""], text: Tokens) -> Masked:
        """Hides words of captions or texts."""
        on, words = self.objectives, self.config.text.vocab_size
        return mask_words(rng, text, on.mlm_probability, on.cls_id, on.mask_id, words)

    def text_loss(
        self,
        params: Any,
        masked: Masked,
        teacher: Any,
        dropout: Key[Array, ""] | None,
        *,
        soft_weight: Weight,
        queue: Queue | None,
        normalizers: dict[str, Array],
    ) -> Loss:
        """Masked words of plain texts, predicted right after the text encoder."""
        if self.objectives.mlm == 0:
            raise ValueError(
                "A batch of texts serves objectives.mlm alone, which is 0; give it a "
                "weight or leave texts out of the mixture."
            )

        def predict(model: MPlug2):
            return model.predict_masked(model.encode_text(masked.text))

        logits = self._run(params, predict, dropout)
        soft = None
        if teacher is not None:
            soft = jax.lax.stop_gradient(self._run(teacher, predict))
        share = len(masked.targets) / normalizers["rows"]
        metrics = terms.masked_words(logits, masked, soft, soft_weight, share)
        return self._total(metrics), LossOutput(metrics, queue)

    def paired_outputs(
        self,
        params: Any,
        batch: MultimodalBatch,
        masked: Masked | None,
        negatives: Negatives | Key[Array, ""],
        *,
        dropout: Key[Array, ""] | None = None,
        teacher: Any = None,
        queue: Queue | None = None,
    ) -> tuple[Outputs, Outputs]:
        """What the model and the teacher make of a batch of pairs.

        Args:
          masked: the captions with words hidden; None where MLM is off.
          negatives: those of matching, or the key to draw them with.
        """
        texts, taught = self._texts(batch, masked), Outputs()
        if teacher is not None:
            taught = self._run(teacher, lambda m: self._forward(m, batch, texts))
            taught = jax.lax.stop_gradient(taught)

        def choose(own: Features, temperature: Float[Array, ""]) -> Negatives:
            if isinstance(negatives, Negatives):
                return negatives
            keys = terms.keys_of(own, taught.features, queue)
            same = same_texts(batch.require("caption"))
            weights = terms.hard_negative_weights(own, keys, temperature, same)
            return draw_negatives(negatives, *weights)

        run = functools.partial(self._forward, batch=batch, texts=texts, choose=choose)
        return self._run(params, run, dropout), taught

    def paired_loss(
        self,
        out: Outputs,
        taught: Outputs,
        batch: MultimodalBatch,
        masked: Masked | None,
        *,
        soft_weight: Weight,
        queue: Queue | None,
        normalizers: dict[str, Array],
    ) -> Loss:
        """All objectives of the outputs for pairs; `taught` may be empty."""
        share, metrics = len(batch.require("frames")) / normalizers["rows"], {}
        if out.features is not None:
            same = same_texts(batch.require("caption"))
            metrics |= terms.contrast(
                out, taught.features, soft_weight, same, queue, share
            )
            if queue is not None:
                queue = terms.enqueue(queue, taught.features or out.features)
        if out.matching is not None:
            metrics |= terms.matching(out.matching, share)
        if out.masked is not None and masked is not None:
            metrics |= terms.masked_words(
                out.masked, masked, taught.masked, soft_weight, share
            )
        if out.target is not None:
            tokens, target = normalizers["target_tokens"], batch.require("answer")
            metrics |= terms.instructed(
                out.target, target, taught.target, soft_weight, tokens
            )
        return self._total(metrics), LossOutput(metrics, queue)

    def _total(self, metrics: dict[str, Array]) -> Float[Array, ""]:
        weights = {f"loss_{name}": getattr(self.objectives, name) for name in NAMES}
        found = [metrics[name] * weights[name] for name in weights if name in metrics]
        return jnp.stack(found).sum()

    def _run(self, params: Any, method: Callable[[MPlug2], T], dropout=None) -> T:
        rngs = None if dropout is None else {"dropout": dropout}
        result: Any = self.model.apply({"params": params}, rngs=rngs, method=method)
        return result

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
                "least 2 (in each part, with accumulation)."
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

    def _texts(
        self, batch: MultimodalBatch, masked: Masked | None
    ) -> dict[str, Tokens]:
        """The texts to encode, padded to one length."""
        texts = {}
        if self.contrasts:
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

    def _forward(
        self,
        model: MPlug2,
        batch: MultimodalBatch,
        texts: dict[str, Tokens],
        choose: Choose | None = None,
    ) -> Outputs:
        """The pass of a bound model; without `choose` (the teacher) no matching."""
        vision = model.encode_vision(batch.require("frames"), batch.is_video)
        encoded = model.encode_text_stages(interleaved(list(texts.values())))
        states = dict(zip(texts, separated(encoded, len(texts)), strict=True))
        rows = {name: (states[name].states, texts[name].mask) for name in texts}
        pair, out, other = rows.pop("caption", None), Outputs(), None
        if pair is not None:
            low, high = self.objectives.min_temperature, self.objectives.max_temperature
            features = model.contrast(vision, states["caption"])
            temperature = bounded(model.temperature(), low, high)
            out = dataclasses.replace(out, features=features, temperature=temperature)
            if choose is not None and self.objectives.vlm > 0:
                negatives = choose(features, temperature)
                rows["pair"], rows["text"] = pair, self._take(pair, negatives.text)
                other = self._take(vision.embeds, negatives.vision)
        fused = fuse_rows(model, vision.embeds, rows)
        if pair is not None and other is not None:
            texts_fused = fused["pair"].text, model.fuse(other, *pair).text
            scores = [model.match(x) for x in (*texts_fused, fused["text"].text)]
            out = dataclasses.replace(out, matching=jnp.stack(scores))
        if "masked" in rows:
            out = dataclasses.replace(
                out, masked=model.predict_masked(fused["masked"].text)
            )
        if "instruction" in rows:
            source = fused["instruction"]
            memory = Memory.of(source.vision, source.text, rows["instruction"][1])
            target = model.decode(batch.require("answer"), memory)
            out = dataclasses.replace(out, target=target)
        return out

    def _take(self, rows: T, index: Int[Array, "B"]) -> T:
        return jax.tree.map(lambda x: take_rows(x, index, self.shards), rows)
