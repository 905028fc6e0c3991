"""Texts find media, and media texts: a predictor's model as a search engine.

retriever = Retriever(Predictor.from_checkpoint("checkpoints/pretrained"))
clips = retriever.encode_media(["a.mp4", "b.mp4"])
texts = retriever.encode_texts(["a man plays the piano"])
texts.features @ clips.features.T         # contrast: all pairs
retriever.match(texts, clips, [(0, 1)])   # matching: some pairs, better and slower
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from mplug2_jax.batching import by_kind, padded
from mplug2_jax.data.prefetch import batched, read_ahead, unless_error
from mplug2_jax.data.video import Media
from mplug2_jax.predictor import Predictor
from mplug2_jax.tasks import retrieval


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


class Retriever:
    """A predictor whose model can compare media with texts.

    Raises:
      ValueError: it has no contrastive head.
    """

    def __init__(self, predictor: Predictor):
        self.predictor = predictor
        self._require(retrieval.CONTRAST)

    def encode_media(
        self, items: Sequence[Any], read: Callable[[Any], Media] | None = None
    ) -> Encodings:
        """Encodes media of all kinds.

        Args:
          items: whatever `read` takes; by default what `Predictor.caption` takes.

        Raises:
          ValueError, OSError: a medium cannot be read.
        """
        its, rows = self.predictor, self.predictor.batch_size
        found: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        with read_ahead(read or its.medium, items, 2 * rows) as results:
            for window in batched(map(unless_error, results), rows):
                start = len(found)
                for places in by_kind(window):
                    frames = [window[i].frames for i in padded(places, rows)]
                    out = retrieval.encode_media(
                        its.model,
                        its.params,
                        np.stack(frames),
                        is_video=not window[places[0]].image,
                    )
                    found |= zip([start + i for i in places], _rows(out), strict=False)
        features, states = zip(*(found[i] for i in range(len(found))), strict=True)
        return Encodings(np.stack(features), states)

    def encode_texts(self, texts: Sequence[str]) -> Encodings:
        """Encodes texts as pretraining's captions are; longer ones are cut."""
        its, rows = self.predictor, self.predictor.batch_size
        features, states, masks = [], [], []
        for batch in batched(texts, rows):
            tokens = its.inputs.plain_captions(its.tokenizer, padded(batch, rows))
            out = _rows(retrieval.encode_texts(its.model, its.params, tokens))
            for (vector, state), mask, _ in zip(out, tokens.mask, batch, strict=False):
                features.append(vector)
                states.append(state)
                masks.append(mask)
        return Encodings(np.stack(features), states, masks)

    def match(
        self, texts: Encodings, media: Encodings, pairs: Sequence[tuple[int, int]]
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

    def _require(self, needed: Sequence[str]) -> None:
        has = self.predictor.model.modules
        if lacking := [name for name in needed if name not in has]:
            raise ValueError(
                f"The model cannot compare media with texts: it has no "
                f"{', '.join(lacking)} (only {', '.join(has)}); use a checkpoint of "
                "pretraining."
            )


def _rows(arrays: retrieval.Encodings) -> list[tuple[np.ndarray, np.ndarray]]:
    return list(zip(*jax.device_get(arrays), strict=True))
