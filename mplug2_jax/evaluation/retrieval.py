"""Retrieval: each text finds its medium, and each medium its text (VLC, then VLM).

All pairs are ranked by the contrastive features; the best `rerank` of each text, and of
each medium, are then ordered by the matching head, which reads the fused pair (the
family's evaluation: mPLUG v1, ALBEF).
"""

import functools
from collections.abc import Sequence
from typing import Any, cast

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mplug2_jax.data.prefetch import batched, read_ahead
from mplug2_jax.data.sources import Example
from mplug2_jax.data.video import Media
from mplug2_jax.models.mplug2 import MPlug2
from mplug2_jax.predictor import Predictor
from mplug2_jax.types import Tokens

NEEDED = ("vision", "text", "contrastive", "fusion", "matching")
DEPTHS = (1, 5, 10)


@flax.struct.dataclass
class Encodings:
    """Features for the first stage, states for the second."""

    features: Float[Any, "B E"]
    states: Float[Any, "B N D"]


def retrieve(
    predictor: Predictor, examples: Sequence[Example], rerank: int = 16
) -> dict[str, float]:
    """Recall at 1, 5 and 10 in both directions, and the median rank.

    Args:
      examples: their first captions are the texts; equal captions would compete.
      rerank: candidates that the matching head orders anew; 0 leaves it out.

    Raises:
      ValueError: the model lacks a module, or captions are missing or equal.
    """
    _check(predictor, examples)
    model, params = predictor.model, predictor.params
    captions = [example.captions[0] for example in examples]
    tokens = predictor.inputs.plain_captions(predictor.tokenizer, captions)
    rows = min(predictor.batch_size, len(examples))
    media = _media(predictor, examples, rows)
    texts = _in_batches(
        lambda index: encode_text(model, params, _rows(tokens, index)),
        len(examples),
        rows,
    )
    scores = np.asarray(texts.features @ media.features.T)  # texts x media

    def match(text: Int[np.ndarray, "R"], medium: Int[np.ndarray, "R"]):
        mask = tokens.mask[text]
        return match_pairs(
            model, params, media.states[medium], texts.states[text], mask
        )

    metrics = {}
    for name, table in (("text_to_video", scores), ("video_to_text", scores.T)):
        if rerank:
            pairs = match if name == "text_to_video" else lambda a, b: match(b, a)
            table = _reranked(table, min(rerank, len(examples)), pairs, rows)
        metrics |= {f"{name}/{k}": v for k, v in recall(table).items()}
    return metrics


def recall(scores: Float[np.ndarray, "Q C"]) -> dict[str, float]:
    """Recall at `DEPTHS` and median rank; query i's answer is candidate i."""
    right = np.diagonal(scores)[:, None]
    ranks = (scores > right).sum(axis=1) + 1  # 1 is best
    found = {f"recall_{depth}": float((ranks <= depth).mean()) for depth in DEPTHS}
    return found | {"median_rank": float(np.median(ranks))}


def _reranked(scores, count: int, match, rows: int) -> np.ndarray:
    """Each query's best `count` candidates, ordered anew, stay before all others."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    queries = np.repeat(np.arange(len(scores)), count)
    pairs = np.stack([queries, best.reshape(-1)], axis=1)
    found = [match(*np.array(part).T) for part in _padded_parts(pairs, rows)]
    table = np.full_like(scores, -np.inf)
    logits = np.concatenate(found)[: len(pairs)]
    table[pairs[:, 0], pairs[:, 1]] = logits
    # A right candidate outside the list ranks after the list: as by the first stage.
    outside = np.isneginf(table)
    return np.where(outside, scores - scores.max() + logits.min() - 1, table)


def _padded_parts(pairs: np.ndarray, rows: int):
    parts = -(-len(pairs) // rows)
    index = np.minimum(np.arange(parts * rows), len(pairs) - 1)
    return pairs[index].reshape(parts, rows, -1)


def _media(predictor: Predictor, examples: Sequence[Example], rows: int) -> Encodings:
    model, params = predictor.model, predictor.params
    encoded = []
    read = lambda e: predictor.read(e.media, e.start, e.end)  # noqa: E731
    with read_ahead(read, examples, 2 * rows) as found:
        for window in batched(found, rows):
            media = [_unless_error(medium) for _, medium in window]
            frames = np.stack([m.frames for m in media])
            full = np.resize(frames, (rows, *frames.shape[1:]))
            out = encode_media(model, params, full, is_video=not media[0].image)
            encoded.append(jax.tree.map(lambda a, n=len(media): a[:n], out))
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *encoded)


def _unless_error(medium: Media | Exception) -> Media:
    if isinstance(medium, Exception):
        raise medium
    return medium


def _in_batches(encode, count: int, rows: int) -> Encodings:
    parts = _padded_parts(np.arange(count)[:, None], rows)[..., 0]
    encoded = [encode(part) for part in parts]
    return jax.tree.map(lambda *a: jnp.concatenate(a)[:count], *encoded)


def _rows(tokens: Tokens, index) -> Tokens:
    return Tokens(tokens.values[index], tokens.mask[index])


def _check(predictor: Predictor, examples: Sequence[Example]) -> None:
    lacking = [name for name in NEEDED if name not in predictor.model.modules]
    if lacking:
        raise ValueError(
            f"The model has no {', '.join(lacking)}, which retrieval reads; use a "
            "pretraining checkpoint."
        )
    captions = [example.captions[:1] for example in examples]
    if () in captions or len(set(captions)) < len(captions):
        raise ValueError(
            "Retrieval needs one caption for each example, and no two alike; "
            f"{len(captions)} examples have {len(set(captions))} different ones."
        )


@functools.partial(jax.jit, static_argnames=("model", "is_video"))
def encode_media(model: MPlug2, params: Any, frames, *, is_video: bool) -> Encodings:
    """Features and visual embeddings of videos or images."""

    def run(model: MPlug2):
        vision = model.encode_vision(frames, is_video)
        return Encodings(model.vision_features(vision), vision.embeds)

    return cast(Any, model.apply({"params": params}, method=run))


@functools.partial(jax.jit, static_argnames="model")
def encode_text(model: MPlug2, params: Any, text: Tokens) -> Encodings:
    """Features and states of texts."""

    def run(model: MPlug2):
        out = model.encode_text_stages(text)
        return Encodings(model.text_features(out), out.states)

    return cast(Any, model.apply({"params": params}, method=run))


@functools.partial(jax.jit, static_argnames="model")
def match_pairs(
    model: MPlug2,
    params: Any,
    vision: Float[Array, "R N D"],
    text: Float[Array, "R L D"],
    mask: Int[Array, "R L"],
) -> Float[Array, "R"]:
    """Log odds that each text belongs to the medium of its row."""

    def run(model: MPlug2):
        logits = model.match(model.fuse(vision, text, mask).text)
        return logits[:, 1] - logits[:, 0]

    return cast(Any, model.apply({"params": params}, method=run))
