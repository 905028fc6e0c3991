"""Evaluation over annotated clips against the predictor asked one by one."""

import dataclasses
import json
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
import small

from mplug2_jax.data.examples import QA, Example
from mplug2_jax.evaluation.runner import evaluate
from mplug2_jax.predictor import Predictor

CAPTIONS = (("w1 w2", "w3"), ("w4 w5",), ("w6",))


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    """Three clips; of the questions two are right by construction."""
    paths = small.write_clips(tmp_path_factory.mktemp("clips"), 3)
    predictor = small.predictor()
    made = []
    for index, path in enumerate(paths):
        asked = small.QUESTIONS[: 3 - index]
        truths = [predictor.answer(path, q).text for q in asked[:1]]
        truths = (truths if index < 2 else []) + ["w0"] * 3
        kinds = ["right" if truth != "w0" else "wrong" for truth in truths]
        questions = [
            QA(question, (truth,), (1.0,), kind, f"{index}-{number}")
            for number, (question, truth, kind) in enumerate(
                zip(asked, truths, kinds, strict=False)
            )
        ]
        example = Example(str(index), Path(path), CAPTIONS[index], tuple(questions))
        made.append(example)
    return made


@pytest.fixture(scope="module")
def results(examples):
    return evaluate(small.predictor(), examples)


def test_captions_are_the_predictors(examples, results):
    expected = small.predictor().caption([example.media for example in examples])
    assert [r.prediction for r in results.captions] == [c.text for c in expected]
    assert [r.id for r in results.captions] == ["0", "1", "2"]
    assert [r.truth for r in results.captions] == list(CAPTIONS)
    assert results.metrics["caption"]["n"] == 3
    assert results.metrics["caption"]["exact_match"] == 0


def test_answers_are_the_predictors_and_scored_by_kind(examples, results):
    assert [r.id for r in results.answers] == ["0-0", "0-1", "0-2", "1-0", "1-1", "2-0"]
    predictor = small.predictor()
    last = examples[1].questions[1]
    assert results.answers[4].question == last.question
    answer = predictor.answer(examples[1].media, last.question)
    assert results.answers[4].prediction == answer.text
    scores = results.metrics["qa"]
    assert scores["by_kind"]["right"] == {"accuracy": 1.0, "n": 2}
    assert scores["by_kind"]["wrong"] == {"accuracy": 0.0, "n": 4}
    assert scores["accuracy"] == pytest.approx(2 / 6)
    flat = results.flat_metrics()
    assert flat["qa/accuracy"] == scores["accuracy"] and flat["qa/right/n"] == 2


def test_the_middle_frame_alone(examples):
    predictor = small.predictor()
    alone = evaluate(predictor, examples, ["caption"], single_frame=True)
    media = [predictor.read(example.media) for example in examples]
    still = [np.repeat(m.frames[2:3], small.FRAMES, axis=0) for m in media]
    expected = [caption.text for caption in predictor.caption(still)]
    assert [r.prediction for r in alone.captions] == expected
    assert not alone.answers


def test_every_example_is_read_and_encoded_once(examples, monkeypatch):
    read, encoded, shown = [], [], []
    encode = Predictor.encode

    def spy(self, media, *args):
        encoded.append(len(media))
        return encode(self, media, *args)

    monkeypatch.setattr(Predictor, "encode", spy)
    predictor = small.predictor()

    def count(example):
        read.append(example.id)
        return predictor.read(example.media)

    progress = lambda done, total: shown.append((done, total))  # noqa: E731
    evaluate(predictor, examples, read=count, progress=progress)
    assert sorted(read) == ["0", "1", "2"] and encoded == [2, 1]
    assert shown == [(2, 3), (3, 3)]


def test_a_bad_file_is_left_out_and_named(examples, results, tmp_path):
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no video")
    broken = dataclasses.replace(examples[0], id="broken", media=bad)
    found = evaluate(small.predictor(), [examples[0], broken, *examples[1:]])
    assert list(found.skipped) == ["broken"] and "bad.mp4" in found.skipped["broken"]
    assert found.metrics == results.metrics
    with pytest.raises(ValueError, match="None of the media.*bad.mp4"):
        evaluate(small.predictor(), [broken])


def test_several_images_together_are_left_out_and_named(examples, results):
    """Before one of them is read."""
    files = Path("left.png"), Path("right.png")
    pair = Example("pair", files[0], ("w1",), examples[0].questions, others=files[1:])
    found = evaluate(small.predictor(), [examples[0], pair, *examples[1:]])
    assert found.skipped == {"pair": "it is 2 media together; expected 1"}
    assert found.metrics == results.metrics


def test_a_decoder_that_hangs_is_left_out(examples, results, monkeypatch):
    monkeypatch.setattr("mplug2_jax.evaluation.runner.READ_TIMEOUT", 0.5)
    released, predictor = threading.Event(), small.predictor()

    def read(example):
        if example.id == "hangs":
            released.wait(60)
        return predictor.read(example.media)

    hangs = dataclasses.replace(examples[0], id="hangs")
    found = evaluate(predictor, [examples[0], hangs, *examples[1:]], read=read)
    released.set()
    assert found.skipped == {"hangs": "reading took longer than 0.5 s"}
    assert found.metrics == results.metrics


def test_candidates_are_chosen_from(examples):
    candidates = [f"w{index} w5" for index in range(20, 32)]
    predictor = small.predictor(1, small.RANKING)
    found = evaluate(predictor, examples[2:], ["qa"], candidates=candidates)
    example, (record,) = examples[2], found.answers
    expected = predictor.answer(
        example.media, example.questions[0].question, candidates
    )
    assert (record.prediction, record.score) == (expected.text, expected.score)
    assert record.prediction in candidates and 1 / 5 <= record.score <= 1
    assert not found.captions


PROCESS = """
import json
import pickle
import sys

import jax
import numpy as np

import small
from mplug2_jax.evaluation.runner import evaluate
from mplug2_jax.sharding.distributed import initialize
from mplug2_jax.sharding.mesh import make_mesh
from mplug2_jax.sharding.partition import batch_sharding
from mplug2_jax.training.validation import on_own_devices

(folder,) = sys.argv[1:]
index = initialize().index
whole = np.arange(32)
rows = batch_sharding(make_mesh())
spread = jax.make_array_from_callback((32,), rows, whole.__getitem__)
own = on_own_devices({"weights": spread})["weights"]
assert own.sharding.device_set == set(jax.local_devices())
assert np.array_equal(own, whole)

with open(f"{folder}/examples", "rb") as file:
    examples = pickle.load(file)
shown, predictor = [], small.predictor()
read = []

def count(example):
    read.append(example.id)
    return predictor.read(example.media)

progress = lambda done, total: shown.append((done, total))
results = evaluate(predictor, examples, ["caption"], read=count, progress=progress)
with open(f"{folder}/{index}", "w") as file:
    json.dump([read, shown, results.to_dict()], file)
"""


@pytest.mark.slow
def test_two_processes_share_the_examples_and_have_all_results(examples, tmp_path):
    """Five examples in windows of two: the last window of the second has none.

    Weights that lie over all devices are whole on each of a process's own.
    """
    bad = dataclasses.replace(examples[0], id="b\u00e4d", media=tmp_path / "gone.mp4")
    again = dataclasses.replace(examples[0], id="again")
    given = [*examples[:2], bad, examples[2], again]
    (tmp_path / "examples").write_bytes(pickle.dumps(given))
    small.in_two_processes(PROCESS, tmp_path)
    alone = json.loads(
        json.dumps(evaluate(small.predictor(), given, ["caption"]).to_dict())
    )
    alone.pop("seconds")
    for index, ids in enumerate((["0", "1", "again"], ["b\u00e4d", "2"])):
        read, shown, results = json.loads((tmp_path / str(index)).read_text())
        results.pop("seconds")
        assert sorted(read) == sorted(ids) and shown == [[4, 5], [5, 5]]
        assert results == alone and list(results["skipped"]) == ["b\u00e4d"]


def test_nothing_to_evaluate(examples):
    predictor = small.predictor()
    silent = [dataclasses.replace(e, questions=()) for e in examples]
    with pytest.raises(ValueError, match="None of the 3 examples has questions"):
        evaluate(predictor, silent, ["qa"])
    with pytest.raises(ValueError, match=r"examples \(0\) have nothing"):
        evaluate(predictor, [])
    with pytest.raises(ValueError, match="Two examples have the id '1'"):
        evaluate(predictor, [*examples, examples[1]])
