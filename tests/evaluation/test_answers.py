"""Exact match of answers, overall and per kind."""

import pytest

from mplug2_jax.data.tokenizers import WordPieceTokenizer
from mplug2_jax.evaluation.answers import AnswerRecord, exact_match, score_answers


def test_exact_match_ignores_case_and_blanks_only():
    truths = ["guitar", "Ice  cream", "t-shirt", "two"]
    assert exact_match(["Guitar ", "ice cream", "t-shirt", "2"], truths) == 0.75


def test_an_answer_the_tokenizer_does_not_give_back():
    tokenizer = WordPieceTokenizer.from_words(["t-shirt"])

    def through(text: str) -> str:
        return tokenizer.decode(tokenizer.encode(text))

    decoded = through("t-shirt")
    assert exact_match([decoded], ["t-shirt"]) == 0
    assert exact_match([decoded], ["t-shirt"], through) == 1


@pytest.mark.parametrize(
    ("predictions", "truths", "message"),
    [([], [], "no answers"), (["a"], ["a", "b"], "1 predictions for 2 answers")],
)
def test_nothing_to_compare(predictions, truths, message):
    with pytest.raises(ValueError, match=message):
        exact_match(predictions, truths)


def test_scores_per_kind():
    records = [
        AnswerRecord("red", "red", "colour"),
        AnswerRecord("blue", "red", "colour"),
        AnswerRecord("Left", "left", "motion"),
        AnswerRecord("two", "two"),
    ]
    assert score_answers(iter(records)) == {
        "accuracy": 0.75,
        "n": 4,
        "by_kind": {
            "colour": {"accuracy": 0.5, "n": 2},
            "motion": {"accuracy": 1.0, "n": 1},
        },
    }


def test_nothing_to_score():
    with pytest.raises(ValueError, match="no answers"):
        score_answers([])
