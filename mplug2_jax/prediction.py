"""What a model says, as texts: the results of a `Predictor`."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from jaxtyping import Float

from mplug2_jax.batching import bucket
from mplug2_jax.data.text import answer_text
from mplug2_jax.data.tokenizers import Tokenizer
from mplug2_jax.decoding import (
    BeamConfig,
    BeamOutput,
    DecodingConfig,
    RankOutput,
    SamplingConfig,
)
from mplug2_jax.types import Tokens


@dataclasses.dataclass(frozen=True)
class Hypothesis:
    """One text.

    Attributes:
      text: without prompt and special tokens.
      score: log-probability, for beams over the length penalty; of a candidate, its
        probability among the candidates.
      ids: tokens, the start included; empty for a candidate.
    """

    text: str
    score: float
    ids: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What the model says about one medium or question, best first."""

    hypotheses: tuple[Hypothesis, ...]

    @property
    def text(self) -> str:
        return self.hypotheses[0].text

    @property
    def score(self) -> float:
        return self.hypotheses[0].score


@dataclasses.dataclass(frozen=True)
class Candidates:
    """Possible answers and their tokens, padded to few shapes."""

    texts: tuple[str, ...]
    tokens: Tokens

    @classmethod
    def of(
        cls, answers: Iterable[str], tokenizer: Tokenizer, longest: int
    ) -> "Candidates":
        """Tokenizes answers, each once.

        Args:
          longest: tokens that the model has positions for.

        Raises:
          ValueError: there are none, or one is too long.
        """
        texts = tuple(dict.fromkeys(a.strip() for a in answers if a.strip()))
        if not texts:
            raise ValueError("The list of candidates is empty; name possible answers.")
        rows = [answer_text(text) for text in texts]
        tokens = tokenizer.encode_batch(rows, max_length=longest + 1)
        count, length = tokens.values.shape
        if length > longest:
            raise ValueError(
                f"Candidate {max(texts, key=len)[:40]!r} has more tokens than the "
                f"model's {longest} positions; shorten it."
            )
        width = min(longest, length + -length % 8)
        padding = ((0, bucket(count) - count), (0, width - length))
        values, mask = (np.pad(a, padding) for a in (tokens.values, tokens.mask))
        return cls(texts, Tokens(values, mask))  # type: ignore[arg-type]


def texts_per_row(decoding: DecodingConfig, top_k: int) -> int:
    """Random texts to draw for each row, 1 for other methods.

    Raises:
      ValueError: the method does not give `top_k` texts.
    """
    if isinstance(decoding, SamplingConfig):
        most, count, advice = top_k, top_k, ""
    elif isinstance(decoding, BeamConfig):
        most, count, advice = decoding.beam_size, 1, "a larger beam"
    else:
        most, count, advice = 1, 1, "method beam or sample"
    if not 1 <= top_k <= most:
        raise ValueError(
            f"top_k={top_k} texts were asked for; there are 1 to {most}"
            + (f", use {advice} for more." if advice else " or more.")
        )
    return count


def generated(
    out: BeamOutput,
    tokenizer: Tokenizer,
    top_k: int,
    shown: Callable[[str], str] = str,
) -> list[Prediction]:
    """Every row's best texts; an empty one where the search found none.

    Args:
      shown: what is shown of a decoded text.
    """
    rows = zip(*map(np.asarray, (out.ids, out.scores, out.lengths)), strict=True)
    found = []
    for ids, scores, lengths in rows:
        best = np.argsort(-scores, kind="stable")[:top_k]
        texts = tuple(
            Hypothesis(shown(tokenizer.decode(row)), float(scores[i]), tuple(row))
            for i in best
            if (row := ids[i, : lengths[i]].tolist())
        )
        found.append(Prediction(texts or (Hypothesis("", float("-inf")),)))
    return found


def ranked(out: RankOutput, texts: Sequence[str], top_k: int) -> list[Prediction]:
    """Every row's best candidates; fewer than `top_k` where the list is shorter."""
    if top_k < 1:
        raise ValueError(f"top_k={top_k} candidates were asked for; ask for some.")
    rows = zip(*map(np.asarray, (out.indices, out.probabilities)), strict=True)
    return [
        Prediction(
            tuple(
                Hypothesis(texts[int(index)], float(probability))
                for index, probability in zip(indices, probabilities, strict=True)
                if index < len(texts)  # the rest is padding
            )[:top_k]
        )
        for indices, probabilities in rows
    ]


def classified(
    scores: Float[np.ndarray, "R K"], classes: Sequence[str], top_k: int = 1
) -> list[Prediction]:
    """Every row's best classes with their probabilities.

    Args:
      classes: names; none in regression, whose number is then text and score.
    """
    if not classes:
        numbers = map(float, scores[:, 0])
        return [Prediction((Hypothesis(str(x), x),)) for x in numbers]
    if not 1 <= top_k <= len(classes):
        raise ValueError(
            f"top_k={top_k} classes were asked for; there are 1 to {len(classes)}."
        )
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    best = np.argsort(-shares, axis=1, kind="stable")[:, :top_k]
    return [
        Prediction(tuple(Hypothesis(classes[int(i)], float(row[i])) for i in places))
        for row, places in zip(shares, best, strict=True)
    ]
