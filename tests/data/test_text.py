"""Cleaning of texts and the prompt of captioning."""

import json
from pathlib import Path

import pytest

from mplug2_jax.data.text import (
    PROMPT,
    answer_text,
    caption_text,
    clean_answer,
    clean_caption,
    clean_question,
    strip_prompt,
)

GOLDEN = json.loads(
    (Path(__file__).parent.parent / "golden" / "tokenizer.json").read_text()
)


@pytest.mark.parametrize("case", GOLDEN["captions"])
def test_captions_are_cleaned_as_upstream(case):
    prompt = PROMPT if case["text"].startswith(PROMPT + case["clean"]) else ""
    assert clean_caption(case["raw"]) == case["clean"]
    assert caption_text(case["raw"], prompt) == case["text"]


@pytest.mark.parametrize("case", GOLDEN["questions"])
def test_questions_are_cleaned_as_upstream(case):
    assert clean_question(case["raw"]) == case["clean"]


def test_long_texts_keep_their_first_words():
    words = [f"w{i}" for i in range(100)]
    assert clean_caption(" ".join(words)) == " ".join(words[:80])
    assert clean_question(" ".join(words)) == " ".join(words[:30])
    assert clean_question(" ".join(words), max_words=50) == " ".join(words[:50])


def test_blanks():
    assert clean_caption(" a \t b\n c ") == "a b c"
    assert clean_question("a  b  ") == "a  b"
    assert clean_answer("  Ice \n Cream ") == "ice cream"


def test_answers_keep_their_punctuation():
    assert answer_text("1980's T-Shirt") == "1980's t-shirt[SEP]"


def test_caption_text_with_a_blank_after_the_prompt():
    assert caption_text("A man!", joined=False) == "a video of a man[SEP]"
    assert caption_text("A man!", "", joined=False) == "a man[SEP]"


@pytest.mark.parametrize(
    ("decoded", "expected"),
    [
        ("a video ofa man runs", "a man runs"),
        ("a video of a man runs ", "a man runs"),
        ("a video of", ""),
        ("a man runs", "a man runs"),
        ("", ""),
    ],
)
def test_strip_prompt(decoded, expected):
    assert strip_prompt(decoded) == expected


def test_strip_empty_prompt():
    assert strip_prompt(" a man ", "") == "a man"
