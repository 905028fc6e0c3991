"""Texts classified and scored; a run that learns entailment, and its evaluation."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import small

from mplug2_jax.checkpoint.load import read_metadata
from mplug2_jax.cli.main import main
from mplug2_jax.data import shape_tasks, shapes
from mplug2_jax.data.batches import BatchConfig
from mplug2_jax.data.inputs import InputConfig
from mplug2_jax.data.opening import DataConfig, is_texts
from mplug2_jax.data.sources import read_text_jsonl
from mplug2_jax.data.tokenizers import WordPieceTokenizer
from mplug2_jax.decoding.settings import Decoding
from mplug2_jax.evaluation.results import Record, Results, to_json
from mplug2_jax.evaluation.suite import run_suite
from mplug2_jax.evaluation.texts import (
    TASK,
    class_record,
    evaluate_texts,
    score_texts,
)
from mplug2_jax.text_classifier import TextClassifier
from mplug2_jax.training.config import RunConfig
from mplug2_jax.training.loop import train
from mplug2_jax.training.optimizer import OptimizerConfig
from mplug2_jax.training.validation import score_of

CLASSES = ("entailment", "not_entailment")
SMALL = small.SLIGHT
JUDGED = Decoding(beam_size=3, min_caption_length=8)


def records(said, true):
    pairs = zip(said, true, strict=True)
    return [Record(str(i), p, (t,), 1.0) for i, (p, t) in enumerate(pairs)]


def test_scores_are_those_of_scikit_learn():
    official = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    true = rng.integers(2, size=60)
    said = np.where(rng.random(60) < 0.7, true, 1 - true)
    given = records(*([CLASSES[i] for i in its] for its in (said, true)))
    scores = score_texts(given, CLASSES)
    assert scores == {
        "accuracy": pytest.approx(official.accuracy_score(true, said)),
        "f1": pytest.approx(official.f1_score(true, said)),
        "n": 60,
    }
    assert score_texts(given, CLASSES, "rte") == {
        name: scores[name] for name in ("accuracy", "n")
    }
    found = score_texts(given, CLASSES, "cola")["matthews"]
    assert found == pytest.approx(official.matthews_corrcoef(true, said))
    three = ("a", "b", "c")
    assert score_texts(records("abca", "abba"), three) == {"accuracy": 0.75, "n": 4}
    numbers = score_texts(records(["1.5", "2", "4"], ["1", "2.5", "5"]), ())
    assert set(numbers) == {"pearson", "spearman", "n"}
    assert numbers["spearman"] == pytest.approx(1)
    flat = {f"text_classification/{k}": v for k, v in scores.items()}
    assert score_of(flat) == pytest.approx((scores["accuracy"] + scores["f1"]) / 2)


def test_json_has_null_where_a_number_is_not_finite():
    """Of a side that is constant there is no correlation."""
    given = records(("1.5", "1.5"), ("1", "2"))
    results = Results({TASK: score_texts(given, ())}, {TASK: given}, {}, np.inf)
    found = json.loads(to_json(results.to_dict()), parse_constant=pytest.fail)
    assert found["metrics"][TASK] == {"pearson": None, "spearman": None, "n": 2}
    assert found["seconds"] is None and found["records"][TASK][0]["score"] == 1.0


def test_a_record_has_the_rank_of_the_true_class():
    record = class_record("b", [0.5, 0.25, 2.0], ("a", "b", "c"), id="x")
    assert (record.prediction, record.truth, record.rank) == ("c", ("b",), 2)
    shares = np.exp([0.5, 0.25, 2.0])
    assert record.score == pytest.approx(shares[2] / shares.sum())
    equal = class_record("b", [1.0, 1.0, 0.0], ("a", "b", "c"), id="x")
    assert (equal.prediction, equal.rank) == ("a", 1)  # wrong, and not first
    number = class_record("2.5", [1.25], (), id="x")
    assert (number.prediction, number.score, number.rank) == ("1.25", 1.25, None)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run on captions, each with a statement that follows and one that does not."""
    folder = tmp_path_factory.mktemp("entailment")
    lines = []
    for index in range(6):
        scene = shapes.make_scene(shapes.scene_rng("train", 0, index))
        for said in shape_tasks.statements(scene, np.random.default_rng(index)):
            line = {"text": shapes.caption(scene), "second": said.text}
            lines.append(json.dumps(line | {"label": said.label}))
    (folder / "pairs.jsonl").write_text("\n".join(lines))
    words = WordPieceTokenizer.from_words(shapes.vocabulary())
    words.save(folder / "tokenizer")
    data = DataConfig(str(folder / "pairs.jsonl"))
    config = RunConfig(
        "text_classification",
        SMALL,
        data,
        data,  # only whether it learns is asked
        vocab=str(folder / "tokenizer"),
        inputs=InputConfig(text_length=32, num_frames=1),
        batch=BatchConfig(12),
        optimizer=OptimizerConfig(5e-3, 5e-3, schedule="constant", clip_norm=1.0),
        devices=1,
        steps=150,
        log_every=50,
        decoding=JUDGED,
    )
    return folder, train(config, folder / "run")


def test_a_run_learns_what_follows(finished, capsys):
    folder, metrics = finished
    assert metrics["text_classification/accuracy"] >= 10 / 12  # chance: 1 / 2
    assert metrics["text_classification/n"] == 12
    annotations = folder / "pairs.jsonl"
    common = ["--checkpoint", str(folder / "run"), "--annotations", str(annotations)]
    common += ["--devices", "1"]
    assert main(["evaluate", *common, "--output", str(folder / "out.json")]) == 0
    shown = capsys.readouterr().out
    share = 100 * metrics["text_classification/accuracy"]
    assert f"{share:.2f}" in shown and "text_classification/f1" in shown
    written = json.loads((folder / "out.json").read_text())["records"]
    classifier = TextClassifier.from_checkpoint(folder / "run", batch_size=12)
    assert classifier.classes == CLASSES
    # What writes texts does it as the run would have been judged.
    stored = read_metadata(folder / "run" / "final").decoding
    assert stored == dataclasses.asdict(JUDGED)
    own = dataclasses.replace(JUDGED, rule="standard")
    assert classifier.predictor.decoding == own
    examples = read_text_jsonl(annotations)
    results = evaluate_texts(classifier.predictor, examples)
    said = [record.prediction for record in results.records["text_classification"]]
    assert said == [r["prediction"] for r in written["text_classification"]]
    first = classifier.classify(examples[0].text, examples[0].second)
    assert first.text == said[0] and first.score >= 0.5


def test_sets_of_glue_are_scored_by_their_own_metrics(finished, tmp_path, capsys):
    """By the command and in a suite: by Matthews' correlation, not accuracy and F1."""
    folder, _ = finished
    (tmp_path / "glue").mkdir()
    file = str(shutil.copy(folder / "pairs.jsonl", tmp_path / "glue" / "cola"))
    asked = ["--checkpoint", str(folder / "run"), "--annotations", file]
    asked += ["--devices", "1"]
    assert main(["evaluate", *asked]) == 0
    table = dict(line.split() for line in capsys.readouterr().out.splitlines())
    its = TextClassifier.from_checkpoint(folder / "run").predictor
    (found,) = (measured.results for measured in run_suite(its, [file]))
    said = [record.prediction == CLASSES[1] for record in found.records[TASK]]
    true = [record.truth[0] == CLASSES[1] for record in found.records[TASK]]
    expected = np.corrcoef(said, true)[0, 1]
    assert found.metrics[TASK] == {"matthews": pytest.approx(expected), "n": 12}
    assert table == {f"{TASK}/matthews": f"{100 * expected:.2f}", f"{TASK}/n": "12"}


def test_a_broken_line_does_not_make_texts_media(tmp_path):
    text, medium = {"text": "a", "label": "b"}, {"video": "a", "text": "b"}
    path = tmp_path / "some.jsonl"
    for first, then, expected in (
        (b'{"text": ', text, True),
        (b"\xff\xfe", text, True),
        (b"[1]\n\n{}", text, True),
        (b'{"label": "b"}', text, True),
        (b'{"text": ', medium, False),
        (b'{"images": ["a"]}', text, False),
        (b"{", {}, False),
    ):
        path.write_bytes(first + b"\n" + json.dumps(then).encode())
        assert is_texts(DataConfig(str(path))) is expected, first
    assert not is_texts(DataConfig(str(tmp_path / "gone.jsonl")))


def test_bad_annotations_are_named(finished, capsys):
    folder, _ = finished
    bad = folder / "bad.jsonl"

    def given(*lines):
        bad.write_text("\n".join(map(json.dumps, lines)))
        its = ["--checkpoint", str(folder / "run"), "--annotations", str(bad)]
        return [*its, "--devices", "1"]

    def error(*lines, task="all"):
        assert main(["evaluate", *given(*lines), "--task", task]) == 2
        return capsys.readouterr().err

    good = {"text": "a", "label": "entailment", "id": "1"}
    assert "'1'; ids must be unique" in error(good, good)
    text = error(good, {"text": "a", "label": "maybe", "id": "2"})
    assert "1 of 2 labels are outside the set; of 2 the label 'maybe'" in text
    assert "none of the 2 classes (entailment, not_entailment)" in text
    unknown = {"text": "a", "label": "-", "id": "2"}
    assert main(["evaluate", *given(good, unknown), "--max-bad-share", "0.5"]) == 0
    shown, said = capsys.readouterr()
    assert dict(line.split() for line in shown.splitlines())[f"{TASK}/n"] == "1"
    assert "left out 2: the label '-' is none of the 2 classes" in said
    assert "bad.jsonl, line 2: a text without its label" in error(good, {"text": "b"})
    assert "line 2: text must be a text" in error(good, {"text": "", "label": "a"})
    assert "and --task is qa; leave it out" in error(good, task="qa")
    bad.write_text("no JSON\n" + json.dumps(good))
    asked = ["evaluate", "--checkpoint", str(folder / "run"), "--annotations", str(bad)]
    assert main(asked) == 2
    assert "bad.jsonl, line 1: not a JSON object" in capsys.readouterr().err
    assert main([*asked, "--max-bad-share", "0.5", "--devices", "1"]) == 0
    table = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert table[f"{TASK}/n"] == "1"
