"""Retrieval: each text looks for its medium, and each medium for its texts.

All pairs are ranked by contrast; the best of each query are then ordered by matching.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from mplug2_jax.data.sources import Example
from mplug2_jax.predictor import Predictor
from mplug2_jax.retriever import Encodings, Retriever

DEPTHS = (1, 5, 10)


def retrieve(
    predictor: Predictor, examples: Sequence[Example], rerank: int = 16
) -> dict[str, float]:
    """Recalls and median ranks of both directions, as `recall` names them.

    Every caption is a text to find its medium; a medium that shares the caption counts
    as found as well.

    Args:
      rerank: the best candidates of each query, ordered anew by matching; 0: none.

    Raises:
      ValueError: examples without captions, or the model lacks what a stage needs.
      OSError, ValueError: a medium cannot be read.
    """
    captions = list(dict.fromkeys(c for example in examples for c in example.captions))
    if bare := [example.id for example in examples if not example.captions]:
        raise ValueError(
            f"{len(bare)} of {len(examples)} examples have no caption to be found by, "
            f"the first is {bare[0]}; give each at least one."
        )
    retriever = Retriever(predictor)
    media = retriever.encode_media(
        examples,
        lambda example: predictor.read(example.media, example.start, example.end),
    )
    texts = retriever.encode_texts(captions)
    scores = texts.features @ media.features.T
    right = np.array([[c in e.captions for e in examples] for c in captions])
    metrics = {}
    for direction in ("text_to_video", "video_to_text"):
        turned = direction == "video_to_text"
        table, answers = (scores.T, right.T) if turned else (scores, right)
        if rerank:
            table = _reranked(retriever, texts, media, table, rerank, turned)
        found = recall(table, answers)
        metrics |= {f"{direction}/{name}": value for name, value in found.items()}
    return metrics


def recall(
    scores: Float[np.ndarray, "Q C"], right: Bool[np.ndarray, "Q C"]
) -> dict[str, float]:
    """Share of queries with a right candidate among the first `DEPTHS`; median rank.

    A query counts by the best of its right candidates; of equal scores the wrong one
    goes first, so that a model that says nothing finds nothing.
    """
    best = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
    ranks = 1 + ((scores >= best) & ~right).sum(axis=1)
    found = {f"recall_{depth}": float((ranks <= depth).mean()) for depth in DEPTHS}
    return found | {"median_rank": float(np.median(ranks))}


def _reranked(
    retriever: Retriever,
    texts: Encodings,
    media: Encodings,
    scores: Float[np.ndarray, "Q C"],
    count: int,
    turned: bool,
) -> Float[np.ndarray, "Q C"]:
    """Each query's best `count` by log odds of matching, then all others as before."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    queries = np.repeat(np.arange(len(scores)), best.shape[1])
    places = queries, best.reshape(-1)
    pairs = list(zip(*(places[::-1] if turned else places), strict=True))
    odds = retriever.match(texts, media, pairs)
    below = odds.min() - 1 - scores.max()
    table = scores + below
    table[places] = odds
    return table
