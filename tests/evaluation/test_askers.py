"""What is asked and scored where people disagree, and where nobody knows the answer."""

import dataclasses
from pathlib import Path

import pytest
import small

from mplug2_jax.data.examples import KIND, QA, Example, Label
from mplug2_jax.evaluation.captions import score_captions
from mplug2_jax.evaluation.runner import evaluate
from mplug2_jax.evaluation.vqa import soft_accuracy
from mplug2_jax.training.validation import score_of

LIST = [f"w{first} w{second}" for first in range(20, 76) for second in range(20, 76)]


def voted(question: str, *votes: str, kind: str = "other") -> QA:
    counted = {answer: votes.count(answer) / len(votes) for answer in votes}
    shares = tuple(counted.values())
    return QA(question, tuple(counted), shares, kind, question, len(votes))


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return small.write_clips(tmp_path_factory.mktemp("clips"), 2)


@pytest.fixture(scope="module")
def examples(clips):
    """Of three answers one is everybody's, one that of two of ten, one unknown."""
    asked, predictor = small.QUESTIONS, small.predictor()
    first, second, _ = predictor.answer(clips[0], list(asked))
    questions = (
        voted(asked[0], *[first.text] * 10, kind="yes/no"),
        voted(asked[1], *["w0"] * 8, *[second.text] * 2),
    )
    unknown = QA(asked[2], (), (), id="9")
    return [
        Example("0", Path(clips[0]), questions=questions),
        Example("1", Path(clips[1]), questions=(unknown,)),
    ]


def test_soft_accuracy_beside_exact_match(examples):
    results = evaluate(small.predictor(), examples)
    assert list(results.metrics) == ["qa", "vqa"]
    assert results.metrics["qa"]["accuracy"] == 0.5
    worth = (2 * 1 / 3 + 8 * 2 / 3) / 10  # two of ten said the same
    vqa = results.metrics["vqa"]
    assert vqa["accuracy"] == pytest.approx((1 + worth) / 2) and vqa["n"] == 2
    assert vqa["by_kind"]["yes/no"] == {"accuracy": 1, "n": 1}
    flat = results.flat_metrics()
    assert flat["vqa/other/accuracy"] == pytest.approx(worth)
    assert score_of(flat) == pytest.approx((1 + worth) / 2)
    assert score_of(flat, "qa/accuracy") == 0.5
    for record in results.answers:
        assert len(record.votes) == 10
        assert soft_accuracy(record.prediction, record.votes) > 0


def test_three_people_are_too_few_for_soft_accuracy(examples):
    few = voted(small.QUESTIONS[0], "w0", "w0", "w1")
    example = dataclasses.replace(examples[0], questions=(few,))
    assert list(evaluate(small.predictor(), [example]).metrics) == ["qa"]


def test_unknown_answers_are_asked_for_on_demand_and_never_scored(examples):
    predictor = small.predictor()
    known, every = (evaluate(predictor, examples, unscored=u) for u in (False, True))
    assert [r.id for r in known.answers] == list(small.QUESTIONS[:2])
    assert [r.id for r in every.answers] == [*small.QUESTIONS[:2], "9"]
    assert every.metrics["qa"] == known.metrics["qa"]
    answer = predictor.answer(examples[1].media, small.QUESTIONS[2])
    assert every.answers[2].prediction == answer.text
    with pytest.raises(ValueError, match="None of the 1 examples has questions with"):
        evaluate(predictor, examples[1:], ["qa"])
    alone = evaluate(predictor, examples[1:], ["qa"], unscored=True)
    assert alone.metrics == {} and len(alone.answers) == 1


def test_captions_of_media_without_some(examples):
    captioned = dataclasses.replace(examples[0], captions=("w1", "w2"))
    given = [captioned, examples[1]]
    known, every = (
        evaluate(small.predictor(), given, ["caption"], unscored=u)
        for u in (False, True)
    )
    assert [r.id for r in every.captions] == ["0", "1"]
    assert every.metrics == known.metrics and known.metrics["caption"]["n"] == 1


def test_captions_are_scored_by_the_kind_of_their_medium(clips):
    truths = ("w1 w2 w3", "w4 w5 w6 w7")
    domains = ("in-domain", "out-domain")
    examples = [
        Example(str(i), Path(clip), (truth, "w9 w8"), labels=(Label(domain, id=KIND),))
        for i, (clip, truth, domain) in enumerate(
            zip(clips, truths, domains, strict=True)
        )
    ]
    results = evaluate(small.predictor(), examples, ["caption"])
    scores = results.metrics["caption"]
    assert list(scores["by_kind"]) == list(domains)
    record = results.captions[1]
    alone = score_captions({"1": record.prediction}, {"1": record.truth})
    assert scores["by_kind"]["out-domain"] == alone
    assert results.flat_metrics()["caption/in-domain/n"] == 1


def test_kinds_have_rare_words_of_their_own():
    references = {0: ["a b", "c"], 1: ["a b", "d"], 2: ["e f", "g"], 3: ["h", "e f"]}
    predictions = {0: "a b", 1: "a b", 2: "e f", 3: "e f"}
    kinds = {0: "x", 1: "x", 2: "y", 3: None}
    scores = score_captions(predictions, references, kinds=kinds)
    assert scores["cider"] > 0 == scores["by_kind"]["x"]["cider"]  # said of all of x
    assert scores["by_kind"]["y"]["n"] == 1 and scores["n"] == 4
    assert "by_kind" not in score_captions(predictions, references)


def test_an_answer_is_ranked_among_as_many_as_the_family_s_list(examples):
    """Of 3136 candidates the best is what scoring each beside few others says."""
    predictor = small.predictor(1, dataclasses.replace(small.RANKING, ranked=8))
    found = evaluate(predictor, examples[:1], ["qa"], candidates=LIST)
    assert found.metrics["vqa"]["n"] == 2
    for record, question in zip(found.answers, small.QUESTIONS[:2], strict=True):
        assert record.prediction in LIST
        best = predictor.answer(examples[0].media, question, LIST, top_k=8)
        texts = [hypothesis.text for hypothesis in best.hypotheses]
        few = predictor.answer(examples[0].media, question, texts[::-1], top_k=8)
        assert record.prediction == few.text == texts[0]
