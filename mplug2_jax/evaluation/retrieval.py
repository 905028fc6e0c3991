"""Retrieval: each text looks for its medium, and each medium for its texts.

All pairs are ranked by contrast; the best of each query are then ordered by matching.
Several processes share the media: each encodes its own and matches their pairs.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from mplug2_jax.data.evaluation_batches import gather_by_id, of_first
from mplug2_jax.data.examples import Example
from mplug2_jax.data.faults import within
from mplug2_jax.data.prefetch import batched, read_ahead
from mplug2_jax.data.records import described
from mplug2_jax.data.video import Media
from mplug2_jax.evaluation.results import Record, Results
from mplug2_jax.evaluation.runner import READ_TIMEOUT, read_whole
from mplug2_jax.evaluation.usable import UnusableError
from mplug2_jax.predictor import Predictor
from mplug2_jax.retriever import Encodings, Retriever

DEPTHS = (1, 5, 10)
MATCHED_AT_ONCE = 16  # batches of pairs
TASK = "retrieval"
# Given what is counted: what is told how many are done, and how many there are.
Progress = Callable[[str], Callable[[int, int], None]]


def silent(what: str) -> Callable[[int, int], None]:
    """Nobody is told."""
    return lambda done, total: None


class TooManyUnusableError(UnusableError):
    """More examples than allowed cannot be searched.

    Attributes:
      skipped: why, by their ids.
    """

    def __init__(self, skipped: Mapping[str, str], total: int):
        self.skipped = skipped
        first = next((f"{i}: {why}" for i, why in skipped.items()), "there are none")
        super().__init__(
            f"{len(skipped)} of {total} examples cannot be searched ({first}); mend "
            "them, or allow a share of such (--max-bad-share)."
        )


def retrieve(
    predictor: Predictor,
    examples: Sequence[Example],
    rerank: int | None = None,
    **options: Any,
) -> dict[str, float]:
    """Recalls and median ranks of both directions, as `recall` names them.

    See `search_results`, which takes the options.
    """
    return dict(search_results(predictor, examples, rerank, **options).metrics[TASK])


def depth(predictor: Predictor, asked: int | None) -> int:
    """How many of each query's best are ordered by matching: as asked or as trained."""
    return predictor.rerank if asked is None else asked


def search_results(
    predictor: Predictor,
    examples: Sequence[Example],
    rerank: int | None = None,
    *,
    dual_softmax: bool = False,
    max_bad_share: float = 0.0,
    progress: Progress = silent,
) -> Results:
    """What texts and media find of each other: metrics, and a record of each text.

    Every caption is a text that looks for its own medium, also where others have an
    equal one: only its own counts, as in the published protocols. A medium has found a
    text when it has found the best of its own. Where media share a caption, as those of
    the synthetic world do, no model can tell them apart, and finds fewer.

    Args:
      rerank: the best candidates of each query, ordered anew by matching; 0: none. By
        default the predictor's; the paper's family takes 128 of MSRVTT's 1000, 256 of
        COCO's images.
      dual_softmax: reports also, under names of their own, what contrast alone finds
        by `dual`, which knows all queries of the test at once.
      max_bad_share: of the examples, which may have no caption, or a medium that cannot
        be read: the others are searched as if these were not there.
      progress: of the media, and then the pairs, of each direction; every process tells
        it as often, between batches, and it may raise.

    Raises:
      TooManyUnusableError: there are more of them, or no others.
      ValueError: the model lacks what a stage needs.
    """
    start = time.monotonic()
    retriever = Retriever(predictor)
    rerank = depth(predictor, rerank)
    media, places, skipped = _read(
        retriever, examples, max_bad_share, rerank > 0, progress
    )
    known = [described(examples)[place] for place in places]
    asked = [(c, column) for column, its in enumerate(known) for c in its.captions]
    captions, owners = zip(*asked, strict=True)
    compared = _Compared(retriever, captions, media, places, progress)
    right = _right(owners, known)
    forth = compared.reranked(rerank, turned=False)
    metrics = _both_directions(forth, compared.reranked(rerank, turned=True), right)
    if dual_softmax:
        table = dual(compared.scores / compared.retriever.temperature)
        found = _both_directions(table, table.T, right)
        metrics |= {f"dual_softmax/{name}": value for name, value in found.items()}
    records = _records(captions, owners, known, forth)
    seconds = time.monotonic() - start
    return Results({TASK: metrics}, {TASK: records}, skipped, seconds)


def _unsearchable(example: Example) -> str:
    """Why an example cannot be searched, whatever its medium holds; "" if it can."""
    if example.others:
        return "it is several images; only one at a time is searched"
    return "" if example.captions else "it has no caption to be found by"


def _check(skipped: Mapping[str, str], total: int, max_bad_share: float) -> None:
    if len(skipped) > max_bad_share * total or len(skipped) == total:
        raise TooManyUnusableError(skipped, total)


def _read(
    retriever: Retriever,
    examples: Sequence[Example],
    max_bad_share: float,
    keep_states: bool,
    progress: Progress,
) -> tuple[Encodings, list[int], dict[str, str]]:
    """Encodes this process's media; of their states, which are large, all or none stay.

    Returns these, the places of all media that can be searched, and by id why others
    cannot.
    """
    its, known = retriever.predictor, described(examples)
    skipped = {e.id: why for e in known if (why := _unsearchable(e))}
    _check(skipped, len(known), max_bad_share)
    places = [place for place, e in enumerate(known) if e.id not in skipped]
    features: list[np.ndarray] = []
    states: list[np.ndarray] = []
    bad: dict[str, str] = {}

    def read(place: int) -> Media:
        return within(READ_TIMEOUT, read_whole, its, examples[place])

    owner = _owner(np.array(places))
    mine = [p for p, of in zip(places, owner, strict=True) if of == jax.process_index()]
    with read_ahead(read, mine, 2 * its.batch_size) as results:
        windows = batched(results, its.batch_size)
        for _ in _rounds(owner, its.batch_size, progress("media")):
            window = next(windows, [])
            usable = [medium for _, medium in window if isinstance(medium, Media)]
            encoded = retriever.encode_window(usable)
            features += [vector for vector, _ in encoded]
            states += [state for _, state in encoded if keep_states]
            errors = ((p, e) for p, e in window if not isinstance(e, Media))
            bad |= {str(place): str(error) for place, error in errors}
    # Whether these are too many, all processes must find alike.
    bad = gather_by_id(bad)
    skipped |= {known[int(place)].id: why for place, why in bad.items()}
    _check(skipped, len(known), max_bad_share)
    places = [place for place in places if str(place) not in bad]
    return Encodings(np.array(features), states), places, skipped


def _owner(place: Any) -> Any:
    """Which process reads a medium; of an array of places, of each."""
    return place % jax.process_count()


def _rounds(
    owner: Int[np.ndarray, "A"], size: int, tell: Callable[[int, int], None]
) -> Iterator[None]:
    """As many turns on every process, each of at most `size` of what it owns; tells."""
    for turn in range(-(-int(np.bincount(owner).max(initial=0)) // size)):
        yield
        tell(min((turn + 1) * size * jax.process_count(), len(owner)), len(owner))


def _records(
    captions: Sequence[str], owners: Sequence[int], examples: Sequence[Example], scores
) -> tuple[Record, ...]:
    """What each text found first, and which medium is its own."""
    firsts, ranks = scores.argmax(axis=1), ranks_of(scores, _right(owners, examples))
    return tuple(
        Record(
            id=examples[owner].id,
            prediction=examples[first].id,
            truth=(examples[owner].id,),
            score=float(row[first]),
            question=caption,
            example=examples[first].id,
            rank=int(rank) - 1,
        )
        for caption, owner, first, rank, row in zip(
            captions, owners, firsts, ranks, scores, strict=True
        )
    )


def ranks_of(
    scores: Float[np.ndarray, "Q C"], right: Bool[np.ndarray, "Q C"]
) -> Int[np.ndarray, "Q"]:
    """The place, from 1, of each query's best right candidate.

    Of equal scores the earlier candidate goes first, right or wrong, so that a model
    that says nothing finds by chance only; nan comes last.
    """
    best = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
    place = (right & (scores == best)).argmax(axis=1)[:, None]
    earlier = np.arange(scores.shape[1]) < place
    ahead = ~(scores <= best) | ((scores == best) & earlier)
    return 1 + ahead.sum(axis=1)


def recall(
    scores: Float[np.ndarray, "Q C"], right: Bool[np.ndarray, "Q C"]
) -> dict[str, float]:
    """Share of queries with a right candidate among the first `DEPTHS`; median rank.

    A query counts by the best of its right candidates (`ranks_of`).
    """
    ranks = ranks_of(scores, right)
    found = {f"recall_{depth}": float((ranks <= depth).mean()) for depth in DEPTHS}
    return found | {"median_rank": float(np.median(ranks))}


def dual(logits: Float[np.ndarray, "Q C"]) -> Float[np.ndarray, "Q C"]:
    """Log of the softmax over candidates times that over queries (arXiv 2109.04290).

    A candidate that suits every query suits each less.
    """
    both = [jax.nn.log_softmax(logits, axis=axis) for axis in (0, 1)]
    return np.asarray(both[0] + both[1])


def _right(
    owners: Sequence[int], examples: Sequence[Example]
) -> Bool[np.ndarray, "T M"]:
    """Which medium is each text's own."""
    return np.array(owners)[:, None] == np.arange(len(examples))


def _both_directions(forth, back, right) -> dict[str, float]:
    tables = {"text_to_video": (forth, right), "video_to_text": (back, right.T)}
    return {
        f"{direction}/{name}": value
        for direction, its in tables.items()
        for name, value in recall(*its).items()
    }


class _Compared:
    """Texts and media: everybody has all features, one process each medium's states.

    Attributes:
      places: of each text among those that differ, `texts`.
      scores: similarities, texts by media.
    """

    def __init__(
        self,
        retriever: Retriever,
        captions: Sequence[str],
        media: Encodings,
        places: Sequence[int],
        progress: Progress,
    ):
        self.retriever, self.media, self.progress = retriever, media, progress
        self.owner = _owner(np.array(places))
        self.mine = np.flatnonzero(self.owner == jax.process_index())
        texts = list(dict.fromkeys(captions))  # each is encoded once
        numbers = {text: number for number, text in enumerate(texts)}
        self.places = np.array([numbers[caption] for caption in captions])
        self.texts = retriever.encode_texts(texts)
        features = _joined(media.features, self.owner)
        scores = self.texts.features @ features.T
        self.scores: Float[np.ndarray, "T M"] = scores[self.places]

    def reranked(self, count: int, turned: bool) -> Float[np.ndarray, "Q C"]:
        """Each query's best `count` by log odds, then all others by similarity.

        Args:
          turned: the queries are the media.
        """
        scores = self.scores.T if turned else self.scores
        if not count:
            return scores
        # The same pairs on every process, as each matches those of its own media.
        best = of_first(np.argsort(-scores, axis=1, kind="stable")[:, :count])
        queries = np.repeat(np.arange(len(scores)), best.shape[1])
        places = queries, best.reshape(-1)
        odds = self._match(*(places[::-1] if turned else places))
        table = scores + (odds.min() - 1 - scores.max())
        table[places] = odds
        return table

    def _match(
        self, texts: Int[np.ndarray, "P"], media: Int[np.ndarray, "P"]
    ) -> Float[np.ndarray, "P"]:
        """Log odds of pairs, each from the process that has its medium."""
        total = len(self.owner)
        pairs, back = np.unique(self.places[texts] * total + media, return_inverse=True)
        texts, media = np.divmod(pairs, total)
        owner = self.owner[media]
        ours = owner == jax.process_index()
        places = np.searchsorted(self.mine, media[ours])
        its = list(zip(texts[ours].tolist(), places.tolist(), strict=True))
        size = MATCHED_AT_ONCE * self.retriever.predictor.batch_size
        parts, odds = batched(its, size), [np.empty(0, np.float32)]
        for _ in _rounds(owner, size, self.progress("pairs")):
            part = next(parts, [])
            odds.append(self.retriever.match(self.texts, self.media, part))
        return _joined(np.concatenate(odds), owner)[back]


def _joined(
    mine: Float[np.ndarray, "B ..."], owner: Int[np.ndarray, "A"]
) -> Float[np.ndarray, "A ..."]:
    """The rows of all processes, each where it is its owner's turn."""
    parts = gather_by_id({str(jax.process_index()): mine.tolist()})
    rows = {int(process): np.array(part, np.float32) for process, part in parts.items()}
    shape = next(part.shape[1:] for part in rows.values() if len(part))
    joined = np.empty((len(owner), *shape), np.float32)
    for process, part in rows.items():
        joined[owner == process] = part if len(part) else 0
    return joined
