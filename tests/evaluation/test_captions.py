"""Caption metrics without Java against the Java tokenizer's, live and stored."""

import json
import math
import shutil
import warnings
from pathlib import Path

import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from mplug2_jax.evaluation.captions import exact_match, score_captions
from mplug2_jax.evaluation.ptb import ptb_tokenize

# [sentence, tokens joined by blanks]: punctuation, hyphens, numbers, prices, times,
# abbreviations, contractions, brackets, unicode; the tokens are PTBTokenizer's.
STORED = json.loads(
    (Path(__file__).parent.parent / "golden" / "ptb_tokens.json").read_text()
)
SENTENCES = [sentence for sentence, _ in STORED]

needs_java = pytest.mark.skipif(not shutil.which("java"), reason="needs java")


def java_tokens(sentences: list[str]) -> list[str]:
    captions = {i: [{"caption": text}] for i, text in enumerate(sentences)}
    tokens = PTBTokenizer().tokenize(captions)
    return [tokens[i][0] for i in range(len(sentences))]


@pytest.fixture(scope="module")
def live() -> list[str]:
    try:
        return java_tokens(SENTENCES)
    except PermissionError:  # it writes beside its own source
        pytest.skip("PTBTokenizer cannot write into its package")


def references_of(sentences: list[str], count: int = 4) -> dict[int, list[str]]:
    starts = range(0, len(sentences) - count + 1, count)
    return {i: sentences[i : i + count] for i in starts}


def test_tokens_equal_the_stored_table():
    assert [[s, " ".join(ptb_tokenize(s))] for s in SENTENCES] == STORED


@needs_java
def test_stored_table_is_what_java_gives(live):
    assert live == [tokens for _, tokens in STORED]


@needs_java
def test_scores_equal_those_of_java_tokens(live):
    references = references_of(SENTENCES)
    # Each prediction is its item's first reference without the third word.
    words = {i: references[i][0].split() for i in references}
    predictions = {i: " ".join(w[:2] + w[3:]) for i, w in words.items()}
    truths = references_of(live)
    tokens = java_tokens(list(predictions.values()))
    guesses = {i: [text] for i, text in zip(predictions, tokens, strict=True)}
    bleu, _ = Bleu(4).compute_score(truths, guesses, verbose=0)
    rouge, _ = Rouge().compute_score(truths, guesses)
    cider, _ = Cider().compute_score(truths, guesses)
    scores = score_captions(predictions, references)
    names = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider")
    expected = dict(zip(names, (*bleu, rouge, cider), strict=True))
    assert {n: scores[n] for n in names} == pytest.approx(expected, abs=1e-9)
    assert 0.2 < scores["bleu_4"] < 0.95  # neither nothing nor everything matched


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", []),
        (" \n\t ", []),
        ("?! ... - '", ["?!"]),  # only "?" and "!" alone are on COCO's list
        ("Don't", ["do", "n't"]),
        ("IT’S", ["it", "'s"]),
        ("(a)", ["-lrb-", "a", "-rrb-"]),
        ("line one\nline two", ["line", "one", "line", "two"]),
        ("a" * 50_000, ["a" * 50_000]),
        ("-" * 5_000 + "'" * 5_000, ["-" * 5_000]),
    ],
)
def test_edges_of_the_tokenizer(text, tokens):
    assert ptb_tokenize(text) == tokens


def test_perfect_captions():
    references = {"a": ["a man runs fast", "x"], "b": ["two dogs sit there", "y"]}
    predictions = {"a": "A man runs fast!", "b": "two dogs sit there"}
    scores = score_captions(predictions, references)
    for name in ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "exact_match"):
        assert scores[name] == pytest.approx(1, abs=1e-6)
    assert scores["n"] == 2


def test_values_worked_out_by_hand():
    references = {0: ["a b c d", "e f"], 1: ["g h", "i j"]}
    scores = score_captions({0: "a b x d", 1: "g k"}, references)
    # Unigrams: 3 of 4 and 1 of 2; bigrams: 1 of 3 and none of 1; lengths 6 and 6.
    assert scores["bleu_1"] == pytest.approx(4 / 6, rel=1e-6)
    assert scores["bleu_2"] == pytest.approx(math.sqrt(4 / 6 * 1 / 4), rel=1e-6)
    # Longest common subsequences: 3 of 4 and 1 of 2; precision equals recall.
    assert scores["rouge_l"] == pytest.approx((3 / 4 + 1 / 2) / 2)
    # idf is log 2 for all; item 0: cosines of the n-grams with "a b c d" are 3/4 and
    # 1/3, item 1: 1/2 and 0; means over 4 n and 2 references, times 10.
    assert scores["cider"] == pytest.approx(10 / 8 * (3 / 4 + 1 / 3 + 1 / 2) / 2)
    assert scores["exact_match"] == 0


def test_unrelated_and_empty_captions_score_zero():
    references = {0: ["a b c", "a b"], 1: ["d e f", "d e"]}
    for predictions in ({0: "x", 1: "y"}, {0: "", 1: ""}):
        scores = score_captions(predictions, references)
        assert scores["cider"] == scores["rouge_l"] == 0
        assert scores["bleu_1"] < 1e-6


def test_scorers_print_nothing(capsys):
    score_captions({0: "a", 1: "b"}, {0: ["a", "c"], 1: ["b"]})
    assert capsys.readouterr() == ("", "")


def test_single_references_warn():
    with pytest.warns(UserWarning, match="every item has one reference"):
        score_captions({0: "a", 1: "b"}, {0: ["a"], 1: ["b"]})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        score_captions({0: "a", 1: "b"}, {0: ["a"], 1: ["b", "c"]})


@pytest.mark.parametrize("score", [score_captions, exact_match])
@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ({}, {}, "no captions"),
        ({"v1": "a"}, {"v1": ["a"], "v2": ["b"]}, "1 references without .* 'v2'"),
        ({"v1": "a", "v2": "b"}, {"v1": ["a"]}, "1 predictions without .* 'v2'"),
        ({"v1": "a"}, {"v1": []}, "1 ids with an empty list of references.* 'v1'"),
    ],
)
def test_ids_must_agree(score, predictions, references, message):
    with pytest.raises(ValueError, match=message):
        score(predictions, references)


def test_references_without_a_word():
    with pytest.raises(ValueError, match="no reference caption holds a word"):
        score_captions({0: "a"}, {0: ["...", ""]})


def test_exact_match_compares_cleaned_captions():
    references = {0: ["A man runs.", "someone"], 1: ["a T-shirt"], 2: ["a dog"]}
    predictions = {0: "a man runs", 1: "a t shirt", 2: "a cat"}
    assert exact_match(predictions, references) == pytest.approx(2 / 3)
