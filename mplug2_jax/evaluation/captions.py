"""COCO caption metrics: BLEU-1 to 4, ROUGE-L, CIDEr and, where Java is, METEOR.

The scorers are pycocoevalcap's; the tokens are `ptb.ptb_tokenize`'s.
"""

import warnings
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from mplug2_jax.data.text import clean_caption
from mplug2_jax.evaluation.meteor import MeteorError, meteor_score
from mplug2_jax.evaluation.ptb import ptb_tokenize


def score_captions(
    predictions: Mapping[Hashable, str],
    references: Mapping[Hashable, Sequence[str]],
    *,
    meteor: bool = False,
    kinds: Mapping[Hashable, str | None] | None = None,
) -> dict[str, Any]:
    """Scores one caption per id against all references of that id.

    Args:
      predictions: id -> caption, as decoded (prompt stripped).
      references: id -> captions, as annotated.
      meteor: METEOR as well, which starts a Java program for 10 seconds or more. Where
        that cannot be had, it is absent and a warning says why.
      kinds: of the ids. The captions of each are scored by themselves as well, without
        METEOR; n-grams then weigh in CIDEr by how rare they are among these alone, as
        in NoCaps' domains.

    Returns:
      bleu_1 .. bleu_4, rouge_l and meteor in [0, 1], cider in [0, 10] (papers print all
      of them times 100), exact_match (share) and n (ids); "by_kind" has the same of
      each kind, sorted, if there are any.

    Raises:
      ValueError: ids differ, there is nothing to score, or an id has no reference.
    """
    _check(predictions, references)
    if all(len(captions) == 1 for captions in references.values()):
        warnings.warn(
            "every item has one reference: CIDEr and BLEU are then far below published "
            "figures, which use all references of a video or image",
            stacklevel=2,
        )
    scores = _scores(predictions, references, meteor)
    by_kind: dict[str, dict[Hashable, Sequence[str]]] = {}
    for i, kind in (kinds or {}).items():
        if kind is not None:
            by_kind.setdefault(kind, {})[i] = references[i]
    if by_kind:
        its = sorted(by_kind.items())
        scores["by_kind"] = {kind: _scores(predictions, own) for kind, own in its}
    return scores


def _scores(
    predictions: Mapping[Hashable, str],
    references: Mapping[Hashable, Sequence[str]],
    meteor: bool = False,
) -> dict[str, Any]:
    """The scores of the ids of `references`."""
    truths = {i: [" ".join(ptb_tokenize(c)) for c in references[i]] for i in references}
    guesses = {i: [" ".join(ptb_tokenize(predictions[i]))] for i in references}
    if not any(map(any, truths.values())):
        raise ValueError("no reference caption holds a word")
    bleu, _ = Bleu(4).compute_score(truths, guesses, verbose=0)
    rouge, _ = Rouge().compute_score(truths, guesses)
    cider, _ = Cider().compute_score(truths, guesses)
    scores = {f"bleu_{n}": float(value) for n, value in enumerate(bleu, 1)}
    scores |= {"rouge_l": float(rouge), "cider": float(cider)}
    if meteor:
        try:
            captions = [text for (text,) in guesses.values()]
            scores["meteor"] = meteor_score(captions, list(truths.values()))
        except MeteorError as error:
            warnings.warn(str(error), stacklevel=3)
    return scores | {
        "exact_match": exact_match({i: predictions[i] for i in references}, references),
        "n": len(truths),
    }


def exact_match(
    predictions: Mapping[Hashable, str],
    references: Mapping[Hashable, Sequence[str]],
) -> float:
    """Returns the share of ids whose caption equals a reference, both cleaned.

    Raises:
      ValueError: as `score_captions`.
    """
    _check(predictions, references)
    hits = (matches(predictions[i], captions) for i, captions in references.items())
    return sum(hits) / len(references)


def matches(prediction: str, captions: Sequence[str]) -> bool:
    """Whether a caption equals a reference, both cleaned."""
    return clean_caption(prediction) in map(clean_caption, captions)


def _check(predictions: Mapping, references: Mapping) -> None:
    for name, odd in (
        ("references without a prediction", references.keys() - predictions.keys()),
        ("predictions without references", predictions.keys() - references.keys()),
        (
            "ids with an empty list of references",
            {i for i in references if not references[i]},
        ),
    ):
        if odd:
            some = ", ".join(sorted(map(repr, odd))[:3])
            raise ValueError(f"{len(odd)} {name}, for instance {some}")
    if not references:
        raise ValueError("no captions to score")
