"""Texts find media, and media texts: a model as a search engine.

retriever = Retriever.from_checkpoint("checkpoints/pretrained")
clips = retriever.encode_media(["a.mp4", "b.mp4"])
texts = retriever.encode_texts(["a man plays the piano"])
texts.features @ clips.features.T         # contrast: all pairs
retriever.match(texts, clips, [(0, 1)])   # matching: some pairs, better and slower
retriever.search(Index.load("clips.index"), "a man plays the piano")
"""

import functools
import hashlib
import os
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import jax
import numpy as np
from absl import logging
from jaxtyping import Float, Int

from mplug2_jax.batching import padded, stacked
from mplug2_jax.checkpoint.load import load_checkpoint, read_metadata
from mplug2_jax.checkpoint.parts import find_checkpoint, find_inputs, find_tokenizer
from mplug2_jax.data.prefetch import batched, read_ahead, unless_error
from mplug2_jax.data.text import clean_caption
from mplug2_jax.data.video import Media
from mplug2_jax.index import Index
from mplug2_jax.models.mplug2 import MPlug2
from mplug2_jax.predictor import Item, Predictor
from mplug2_jax.sharding.replicas import replicated
from mplug2_jax.tasks import retrieval
from mplug2_jax.tasks.base import COMPOSITION

Encoding = tuple[np.ndarray, np.ndarray]  # one row's unit vector and states


class Encodings(NamedTuple):
    """Media or texts in the host's memory.

    Attributes:
      features: unit vectors.
      states: of each, `N D`; videos and images have different N.
      masks: of texts, which of the states are not padding.
    """

    features: Float[np.ndarray, "B E"]
    states: Sequence[Float[np.ndarray, "N D"]]
    masks: Sequence[Int[np.ndarray, "N"]] = ()


class Hit(NamedTuple):
    """A file that was found.

    Attributes:
      similarity: of contrast, in [-1, 1].
      odds: log odds of matching; None where it was not asked.
    """

    file: str
    similarity: float
    odds: float | None = None


class Retriever:
    """A predictor whose model can compare media with texts.

    Raises:
      ValueError: it has no contrastive head.
    """

    def __init__(self, predictor: Predictor):
        self.predictor = predictor
        self._require(retrieval.CONTRAST)

    @classmethod
    def from_checkpoint(
        cls,
        directory: str | os.PathLike,
        *,
        matching: bool = True,
        vocab: str | os.PathLike | None = None,
        num_frames: int | None = None,
        caption_length: int | None = None,
        batch_size: int = 8,
        devices: Sequence[Any] | None = None,
    ) -> Self:
        """Loads what retrieval uses of a checkpoint, and nothing else.

        Args:
          matching: with the modules of the second stage.
          vocab, num_frames, batch_size, devices: as `Predictor.from_checkpoint` takes
            them.
          caption_length: tokens of a text, [CLS] included; by default as trained.

        Raises:
          ValueError: no checkpoint, modules missing, or another vocabulary.
          OSError: there is no vocabulary.
        """
        folder = find_checkpoint(directory)
        stored = read_metadata(folder)
        tokenizer = find_tokenizer(folder, stored, vocab)
        inputs = find_inputs(folder, stored, num_frames, caption_length)
        left_out = () if matching else retrieval.MATCHING
        used = [m for m in COMPOSITION["retrieval"].modules if m not in left_out]
        params, loaded = load_checkpoint(folder, used)
        params = jax.device_put(params, replicated(devices, batch_size))
        model = MPlug2(loaded.config, loaded.modules)
        made_of = model, params, tokenizer, inputs
        return cls(
            Predictor(
                *made_of,
                batch_size=batch_size,
                rerank=stored.rerank,
                temperatures=stored.temperatures,
            )
        )

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of the head that makes the features: other checkpoints have another."""
        leaves = jax.device_get(jax.tree.leaves(self.predictor.params["contrastive"]))
        return hashlib.sha256(b"".join(leaf.tobytes() for leaf in leaves)).hexdigest()

    @functools.cached_property
    def temperature(self) -> float:
        """The learned divisor of similarities, within the bounds of training."""
        learned = float(self.predictor.params["contrastive"]["temperature"])
        low, high = self.predictor.temperatures
        return min(max(learned, low), high)

    def encode_media(self, items: Sequence[Item]) -> Encodings:
        """Encodes media of all kinds, as `Predictor.caption` takes them.

        Raises:
          ValueError, OSError: a medium cannot be read.
        """
        its, found = self.predictor, []
        with read_ahead(its.medium, items, 2 * its.batch_size) as results:
            for window in batched(map(unless_error, results), its.batch_size):
                found += self.encode_window(window)
        return Encodings(
            np.array([vector for vector, _ in found]), [state for _, state in found]
        )

    def encode_window(self, window: Sequence[Media]) -> list[Encoding]:
        """Encodes at most `batch_size` media that were read, of all kinds."""
        its, found = self.predictor, {}
        for places, frames, image, _ in stacked(window, its.batch_size):
            out = retrieval.encode_media(
                its.model, its.params, frames, is_video=not image
            )
            found |= zip(places, _rows(out), strict=False)
        return [found[place] for place in range(len(window))]

    def encode_texts(self, texts: Sequence[str]) -> Encodings:
        """Encodes texts as pretraining's captions are.

        Longer ones are cut, and how many they were is logged.
        """
        its, rows = self.predictor, self.predictor.batch_size
        self._say_cut(texts)
        features, states, masks = [], [], []
        for batch in batched(texts, rows):
            tokens = its.inputs.plain_captions(its.tokenizer, padded(batch, rows))
            out = _rows(retrieval.encode_texts(its.model, its.params, tokens))
            for (vector, state), mask, _ in zip(out, tokens.mask, batch, strict=False):
                features.append(vector)
                states.append(state)
                masks.append(mask)
        return Encodings(np.stack(features), states, masks)

    def _say_cut(self, texts: Sequence[str]) -> None:
        its, length = self.predictor.tokenizer, self.predictor.inputs.caption_length
        if cut := sum(len(its.encode(clean_caption(text))) > length for text in texts):
            logging.warning(
                "%d of %d texts were cut at %d tokens; raise caption_length "
                "(--caption-length) to read them whole.",
                *(cut, len(texts), length),
            )

    def match(
        self,
        texts: Encodings,
        media: Encodings,
        pairs: Sequence[tuple[int, int]],
    ) -> Float[np.ndarray, "P"]:
        """Log odds that text and medium of each pair of places belong together.

        Raises:
          ValueError: the model has no matching head.
        """
        self._require(retrieval.MATCHING)
        its, rows = self.predictor, self.predictor.batch_size
        found = np.empty(len(pairs), np.float32)
        by_length: dict[int, list[int]] = {}
        for place, (_, medium) in enumerate(pairs):
            by_length.setdefault(len(media.states[medium]), []).append(place)
        for places in by_length.values():
            for batch in batched(places, rows):
                ours = [pairs[place] for place in padded(batch, rows)]
                out = retrieval.match(
                    its.model,
                    its.params,
                    np.stack([media.states[medium] for _, medium in ours]),
                    np.stack([texts.states[text] for text, _ in ours]),
                    np.stack([texts.masks[text] for text, _ in ours]),
                )
                found[batch] = np.asarray(out)[: len(batch)]
        return found

    def search(
        self, index: Index, text: str, top: int = 10, rerank: int = 0
    ) -> list[Hit]:
        """The files of an index that a text describes best, best first.

        Args:
          rerank: the best candidates, read again and ordered anew by matching.

        Raises:
          ValueError: the index is another checkpoint's, or a file cannot be read.
          OSError: a file is gone.
        """
        index.check(self.fingerprint)
        texts = self.encode_texts([text])
        scores = index.features @ texts.features[0]
        order = np.argsort(-scores, kind="stable")
        best: list[int] = order[: max(top, rerank)].tolist()
        odds: dict[int, float] = {}
        if rerank:
            media = self.encode_media([index.files[i] for i in best[:rerank]])
            pairs = [(0, place) for place in range(len(media.states))]
            odds = dict(
                zip(best, self.match(texts, media, pairs).tolist(), strict=False)
            )
            best.sort(key=lambda i: -odds.get(i, -np.inf))
        return [Hit(index.files[i], float(scores[i]), odds.get(i)) for i in best[:top]]

    def _require(self, needed: Sequence[str]) -> None:
        has = self.predictor.model.modules
        if lacking := [name for name in needed if name not in has]:
            raise ValueError(
                f"The model cannot compare media with texts: it has no "
                f"{', '.join(lacking)} (only {', '.join(has)}); use a checkpoint of "
                "pretraining or retrieval."
            )


def _rows(arrays: retrieval.Encodings) -> list[Encoding]:
    return list(zip(*jax.device_get(arrays), strict=True))
