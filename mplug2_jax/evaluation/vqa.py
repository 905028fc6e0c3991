"""Soft accuracy of VQA v2 (visualqa.org/evaluation), with its answers' normalisation.

Ten people answered each question. An answer is worth what it agrees with nine of them,
averaged over the ten ways to leave one out: a third for each who said the same, at most
1. Answers are normalised first, but only where the ten disagree, as the official
program has it.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

_ENOUGH = 3  # people who say the same
MIN_PEOPLE = _ENOUGH + 1  # of fewer, none could be worth 1

# What the official program turns words into.
_ARTICLES = frozenset(("a", "an", "the"))
_DIGITS = "zero one two three four five six seven eight nine ten"
_NUMBERS = {"none": "0"} | {w: str(i) for i, w in enumerate(_DIGITS.split())}
# Missing one of its apostrophes, a word gets it back. Others ("I'm", "she'll", "let's")
# do not: the program's list does not have them, or not in lower case.
_CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't
    hadn't've hasn't haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've
    it'll ma'am might've mightn't mightn't've must've mustn't needn't not've o'clock
    oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've
    somebody'll somebody's someone'd someone'd've someone'll someone's something'd
    something'd've something'll that's there'd there'd've there're there's they'd
    they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're
    what's what've when's where'd where's where've who'd who'd've who'll who's who've
    why'll why're why's won't would've wouldn't wouldn't've y'all y'all'd've y'all'll
    you'd you'd've you'll you're you've"""
_COMPLETED = {
    word[: mark.start()] + word[mark.end() :]: word
    for word in _CONTRACTIONS.split()
    for mark in re.finditer("'", word)
} | {"somebody'd": "somebodyd"}  # sic

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_STOP = re.compile(r"\.(?!\d)")
_THOUSANDS = re.compile(r"\d,\d")


def normalise_answer(text: str) -> str:
    """Normalises an answer as VQA's official program does.

    Lower case; marks dropped where one stands beside a blank or the answer has a number
    with a comma, else turned to blanks, apostrophes and colons kept; full stops dropped
    unless a digit follows; number words to ten as digits, "none" as "0"; no articles;
    apostrophes put into contractions.
    """
    plain = _one_line(text)
    dropped = _THOUSANDS.search(plain) is not None
    table = {
        mark: "" if dropped or f"{mark} " in plain or f" {mark}" in plain else " "
        for mark in _MARKS
    }
    words = _STOP.sub("", plain.translate(str.maketrans(table))).lower().split()
    words = [_NUMBERS.get(word, word) for word in words]
    return " ".join(
        _COMPLETED.get(word, word) for word in words if word not in _ARTICLES
    )


def soft_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Returns what an answer is worth, in [0, 1].

    Args:
      prediction: the answer as decoded or chosen.
      answers: of all people asked, repetitions included; ten in VQA v2.

    Raises:
      ValueError: there are fewer than four answers, so that none could be worth 1.
    """
    if len(answers) < MIN_PEOPLE:
        raise ValueError(
            f"soft accuracy needs the answers of {MIN_PEOPLE} people or more (VQA v2 "
            f"has 10), repetitions included; found {len(answers)}: {list(answers)}"
        )
    guess, said = _one_line(prediction), [_one_line(answer) for answer in answers]
    if len(set(said)) > 1:
        guess, said = normalise_answer(guess), [normalise_answer(its) for its in said]
    same = said.count(guess)
    without_one = min((same - 1) / _ENOUGH, 1)
    without_another = min(same / _ENOUGH, 1)
    return (same * without_one + (len(said) - same) * without_another) / len(said)


def score_vqa(
    predictions: Sequence[str],
    answers: Sequence[Sequence[str]],
    kinds: Sequence[str | None] | None = None,
) -> dict[str, Any]:
    """Scores answers overall and per kind of question.

    Args:
      predictions: one answer per question.
      answers: of all people asked, in the same order.
      kinds: of the questions ("yes/no", "number", "other"); None: not counted by kind.

    Returns:
      {"accuracy", "n", "by_kind": {kind: {"accuracy", "n"}}}, kinds sorted.

    Raises:
      ValueError: lengths differ, there is nothing to score, or answers are too few.
    """
    kinds = [None] * len(predictions) if kinds is None else kinds
    if not len(predictions) == len(answers) == len(kinds):
        raise ValueError(
            f"{len(predictions)} predictions and {len(kinds)} kinds for {len(answers)} "
            f"questions"
        )
    if not predictions:
        raise ValueError("no answers to score")
    groups: dict[str, list[float]] = defaultdict(list)
    scores = list(map(soft_accuracy, predictions, answers))
    for kind, score in zip(kinds, scores, strict=True):
        if kind is not None:
            groups[kind].append(score)
    by_kind = {kind: _mean(groups[kind]) for kind in sorted(groups)}
    return {**_mean(scores), "by_kind": by_kind}


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _mean(scores: Sequence[float]) -> dict[str, Any]:
    return {"accuracy": sum(scores) / len(scores), "n": len(scores)}
