"""All tasks of a checkpoint on all annotations: one table, one page of examples."""

import dataclasses
import json
import shutil
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
import small
from PIL import Image

from mplug2_jax.cli import options
from mplug2_jax.cli.main import main
from mplug2_jax.data.examples import Example
from mplug2_jax.data.opening import path_and_split
from mplug2_jax.data.records import Records
from mplug2_jax.data.sources import read_jsonl
from mplug2_jax.decoding.settings import Decoding
from mplug2_jax.evaluation import runner, suite, texts
from mplug2_jax.evaluation.answers import AnswerRecord, score_answers
from mplug2_jax.evaluation.gallery import best_and_worst, gallery, quality, right
from mplug2_jax.evaluation.measured import Measured, rows
from mplug2_jax.evaluation.report import _line
from mplug2_jax.evaluation.results import Record, Results
from mplug2_jax.retriever import Retriever


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The golden model with pretraining's heads: it captions, answers and searches."""
    folder = small.save_pretrained(tmp_path_factory.mktemp("model") / "checkpoint")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"rerank": 2}))
    return folder


@pytest.fixture(scope="module")
def annotations(tmp_path_factory):
    """Clips with captions and questions, and others with questions alone."""
    folder = tmp_path_factory.mktemp("data")
    clips = small.write_clips(folder, 3)
    with (
        (folder / "all.jsonl").open("w") as both,
        (folder / "qa.jsonl").open("w") as qa,
    ):
        for index, clip in enumerate(clips):
            asked = {"video": clip, "question": small.QUESTIONS[index], "answer": "w0"}
            qa.write(json.dumps(asked) + "\n")
            both.write(json.dumps(asked | {"captions": [f"w{index} w9"]}) + "\n")
    return folder / "all.jsonl", folder / "qa.jsonl"


@pytest.fixture(scope="module")
def searching(checkpoint, tmp_path_factory):
    """The same weights, trained for retrieval."""
    folder = tmp_path_factory.mktemp("retrieval") / "checkpoint"
    shutil.copytree(checkpoint, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"task": "retrieval"}))
    return folder


@pytest.fixture
def broken(annotations, tmp_path):
    """The annotations of all, and a fourth clip that cannot be read."""
    clip = tmp_path / "broken.mp4"
    clip.write_text("no video")
    line = {"video": str(clip), "question": "w1", "answer": "w0", "captions": ["w8"]}
    lines = [*annotations[0].read_text().splitlines(), json.dumps(line)]
    (tmp_path / "some.jsonl").write_text("\n".join(lines))
    return tmp_path / "some.jsonl"


def table(folder):
    """Data, split, task and number of each row of results.md."""
    lines = (folder / "results.md").read_text().splitlines()
    cells = [[c.strip() for c in x.split("|")[1:5]] for x in lines if x[:1] == "|"]
    return cells[2:]


def run(checkpoint, output, *annotations, extra=()):
    arguments = ["evaluate", "--suite", "--checkpoint", checkpoint, "--batch-size", 3]
    arguments += ["--devices", 1, "--beam-size", small.BEAM, "--annotations"]
    arguments += [*annotations, *extra]
    if output is not None:
        arguments += ["--output", output]
    return main([str(argument) for argument in arguments])


def test_every_task_of_a_checkpoint(checkpoint, annotations, tmp_path, capsys):
    assert run(checkpoint, tmp_path / "out", *annotations) == 0
    table = (tmp_path / "out" / "results.md").read_text().splitlines()
    about = {"checkpoint": checkpoint, **suite.origin()}
    assert table[0] == ", ".join(f"{name}: {value}" for name, value in about.items())
    cells = [[c.strip() for c in line.split("|")[1:-1]] for line in table[2:]]
    assert [row[:1] + row[2:4] for row in cells[2:]] == [
        ["all.jsonl", "caption", "3"],
        ["all.jsonl", "qa", "3"],
        ["all.jsonl", "retrieval", "3"],
        ["qa.jsonl", "qa", "3"],
    ]
    searched = "beam size 4, length penalty 0.6, rule standard"
    assert [row[5] for row in cells[2:]] == [
        f"beam, max length 9, min length 2, {searched}",
        f"beam, max length 9, min length 1, {searched}",
        "among 3 media, the best 2 ordered by matching",
        f"beam, max length 9, min length 1, {searched}",
    ]
    assert "text to video/recall 1" in cells[4][4]
    printed, said = capsys.readouterr()
    assert printed.count("retrieval") == 1 and "all.jsonl" in printed
    assert said.count("3/3 media") == 3 and said.count("6/6 pairs") == 2
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    first = written["data"][0]
    assert len(first["records"]["caption"]) == first["metrics"]["caption"]["n"] == 3
    (search,) = (d["metrics"] for d in written["data"] if "retrieval" in d["metrics"])
    assert search["retrieval"]["text_to_video/recall_5"] == 1.0
    page = (tmp_path / "out" / "report.html").read_text()
    # Three tasks, and the questions alone: of three clips two are best, one is worst.
    assert page.count("data:image/png;base64,") == 4 * 3
    assert page.count(": best</h2>") == page.count(": worst</h2>") == 4
    assert run(checkpoint, tmp_path / "out", annotations[1]) == 0  # in its place
    assert "all.jsonl" not in (tmp_path / "out" / "results.md").read_text()


def test_a_share_of_media_may_be_unusable(
    checkpoint, searching, annotations, broken, tmp_path, capsys
):
    """Others are searched as if it were not there; without a share none are."""
    shared = tmp_path / "out", broken, annotations[0]
    assert run(searching, *shared) == 1
    assert capsys.readouterr().err.count("evaluate: left out") == 1
    assert table(tmp_path / "out") == [["all.jsonl", "", "retrieval", "3"]]
    for model, asked in ((searching, 1), (checkpoint, 3)):
        assert run(model, *shared, extra=("--max-bad-share", 0.3)) == 0
        said = (tmp_path / "out" / "results.md").read_text()
        assert "1 left out:" in said
        rows = [line.split("|")[3:] for line in said.splitlines() if line[:1] == "|"]
        assert rows[2 : 2 + asked] == rows[2 + asked :]


def test_media_without_captions_are_not_searched(searching, annotations, tmp_path):
    """They are named, and count like other unusable ones."""
    shutil.copy(annotations[0].parent / "clip0.mp4", tmp_path / "bare.mp4")
    line = {"video": str(tmp_path / "bare.mp4"), "question": "w1", "answer": "w0"}
    some, out = tmp_path / "some.jsonl", tmp_path / "out"
    some.write_text(annotations[0].read_text() + json.dumps(line))
    assert run(searching, out, some) == 1
    said = (out / "results.md").read_text()
    assert table(out) == [] and "bare.mp4: it has no caption to be found by" in said
    share = ("--max-bad-share", 0.25)
    assert run(searching, out, some, annotations[0], extra=share) == 0
    said = (out / "results.md").read_text()
    rows = [line.split("|")[3:] for line in said.splitlines() if line[:1] == "|"]
    assert rows[2] == rows[3] and "bare.mp4: it has no caption" in said


def test_classes_need_names_that_say_a_thing(searching, annotations, tmp_path, capsys):
    """Those of ImageNet are ids of WordNet: a suite leaves them out and says so."""
    clips = [json.loads(x)["video"] for x in annotations[1].read_text().splitlines()]
    ids = ("n01440764", "n02102040", "n01440764")
    lines = ({"video": c, "label": i} for c, i in zip(clips, ids, strict=True))
    labelled, words = tmp_path / "labelled.jsonl", tmp_path / "words.txt"
    labelled.write_text("\n".join(map(json.dumps, lines)))
    assert run(searching, tmp_path / "out", labelled) == 0
    reason = "2 of 2 classes are called by ids of WordNet, such as n01440764"
    said = (tmp_path / "out" / "results.md").read_text()
    assert f"labelled.jsonl: zero_shot_classification: {reason}" in said
    assert reason in capsys.readouterr().err
    asked = ["evaluate", "--checkpoint", str(searching), "--batch-size", "3"]
    asked += ["--annotations", str(labelled), "--task", "zero_shot_classification"]
    asked += ["--devices", "1"]
    assert main(asked) == 2
    assert f"{reason}, which say nothing" in capsys.readouterr().err
    words.write_text("n01440764\ttench\nn02102040\tw9\n")
    assert main([*asked, "--classes", str(words)]) == 0
    assert "zero_shot_classification/n" in capsys.readouterr().out


def committed(folder):
    """A repository with one commit, which is returned as git abbreviates it."""
    name = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init"], [*name, "commit", "--allow-empty", "--message=first"]):
        subprocess.run(["git", "-C", folder, *command], check=True, capture_output=True)
    shown = ["git", "-C", folder, "rev-parse", "--short", "HEAD"]
    out = subprocess.run(shown, check=True, capture_output=True, text=True)
    return out.stdout.strip()


def test_the_commit_is_that_of_the_source(tmp_path, monkeypatch):
    """None of a repository that it is merely installed below."""
    commit = committed(tmp_path)
    for place, expected in ((".", commit), ("venv/site-packages", None)):
        module = tmp_path / place / "mplug2_jax" / "evaluation" / "suite.py"
        module.parent.mkdir(parents=True)
        monkeypatch.setattr(suite, "__file__", str(module))
        assert suite.origin().get("commit") == expected
    monkeypatch.setenv("PATH", "")
    assert set(suite.origin()) == {"version", "date"}


def test_what_was_finished_is_written_before_an_error(searching, annotations, tmp_path):
    """And a data set that cannot be opened is said before the work."""
    one = ("--rerank", 1)
    assert run(searching, tmp_path / "out", *annotations, extra=one) == 2
    assert table(tmp_path / "out") == [["all.jsonl", "", "retrieval", "3"]]
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    assert "qa.jsonl has nothing that a model trained for" in written["incomplete"]
    assert "the best 1 ordered by matching" in written["data"][0]["how"]["retrieval"]
    assert run(searching, tmp_path / "none", annotations[0], tmp_path / "gone") == 2
    assert not (tmp_path / "none").exists()


def test_a_checkpoint_does_what_it_was_trained_for(searching, annotations, capsys):
    """And is asked for more by name."""
    arguments = ["evaluate", "--checkpoint", str(searching), "--batch-size", "3"]
    arguments += ["--annotations", str(annotations[0]), "--beam-size", str(small.BEAM)]
    assert main(arguments) == 0
    assert "text_to_video/recall_1" in capsys.readouterr().out
    assert main([*arguments, "--task", "grounding"]) == 2
    assert "knows no boxes" in capsys.readouterr().err


def test_every_prepared_set_has_a_split_of_its_own(searching, tmp_path):
    counts = ["--counts", "test=2,unseen_pairs=3"]
    assert main(["prepare", "shapes", "--data-dir", str(tmp_path), *counts]) == 0
    folder = tmp_path / "mplug2_data" / "shapes" / "1.0.0"
    assert run(searching, tmp_path / "out", folder, f"{folder}:unseen_pairs") == 0
    assert [row[:3] for row in table(tmp_path / "out")] == [
        ["shapes", "test", "retrieval"],
        ["shapes", "unseen_pairs", "retrieval"],
    ]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "retrieval, shapes unseen_pairs: best" in page
    for path in ("tfds:cifar10", "tfds:glue/rte", r"C:\data", "C:data", "gs://b/set"):
        assert path_and_split(path, "test") == (path, "test")
    with pytest.raises(ValueError, match="tfds:glue/rte is not prepared"):
        path_and_split("tfds:glue/rte:validation", "test")


def test_pretraining_answers_and_classifies_without_more(
    checkpoint, annotations, tmp_path, capsys
):
    """Answers that are written or ranked; classes by prompts, of files and in all."""

    def said(command, *arguments):
        shared = ["--checkpoint", checkpoint, "--batch-size", 3]
        assert main([str(a) for a in (command, *arguments, *shared)]) == 0
        return capsys.readouterr().out

    clips = [json.loads(x)["video"] for x in annotations[1].read_text().splitlines()]
    words = tmp_path / "words.txt"
    words.write_text("w3\nw9\nw27\n")
    assert said("ask", clips[0], small.QUESTIONS[0], "--beam-size", small.BEAM)
    ranked = said("ask", clips[0], small.QUESTIONS[0], "--candidates", words)
    assert ranked.split()[-1] in ("w3", "w9", "w27")
    retriever = Retriever.from_checkpoint(checkpoint, matching=False, batch_size=3)
    prompts = retriever.encode_texts(["w5 w3", "w5 w9", "w5 w27"]).features
    likeness = retriever.encode_media(clips).features @ prompts.T
    names = [("w3", "w9", "w27")[place] for place in likeness.argmax(1)]
    found = said("classify", *clips, "--classes", words, "--template", "w5 {}")
    assert [line.split("\t")[1] for line in found.splitlines()] == names
    labelled = tmp_path / "labelled.jsonl"
    lines = ({"video": c, "label": n} for c, n in zip(clips, names, strict=True))
    labelled.write_text("\n".join(map(json.dumps, lines)))
    asked = ("--annotations", labelled, "--task", "zero_shot_classification")
    asked += ("--devices", 1)
    table = said("evaluate", *asked, "--classes", words, "--template", "w5 {}")
    scores = dict(line.split() for line in table.splitlines())
    assert float(scores["zero_shot_classification/accuracy"]) == 100
    lines = (
        {"video": c, "label": n}
        for c, n in zip(clips, ("w3", "w9", "w27"), strict=True)
    )
    labelled.write_text("\n".join(map(json.dumps, lines)))
    limited = said("evaluate", *asked, "--template", "w5 {}", "--limit", 1)
    scores = dict(line.split() for line in limited.splitlines())
    assert scores["zero_shot_classification/n"] == "1"  # of three classes all the same


def test_several_images_have_classes_but_no_captions(checkpoint, tmp_path, capsys):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (28, 28)).save(tmp_path / name)
    line = {"images": ["a.png", "b.png"], "captions": ["w1"]}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(line))
    said = {"caption": "is 2 media together", "retrieval": "images; only one at a time"}
    for task, reason in said.items():
        asked = ["--annotations", str(tmp_path / "pairs.jsonl"), "--task", task]
        assert main(["evaluate", "--checkpoint", str(checkpoint), *asked]) == 2
        assert reason in capsys.readouterr().err


def test_what_cannot_be_done_is_named(checkpoint, annotations, tmp_path, capsys):
    assert run(checkpoint, None, annotations[0]) == 2
    assert "give it a folder by --output" in capsys.readouterr().err
    image = tmp_path / "a.png"
    Image.new("RGB", (28, 28)).save(image)
    labelled = tmp_path / "labelled.jsonl"
    labelled.write_text('{"image": "a.png", "label": "dog"}\n')
    assert run(checkpoint, tmp_path / "out", labelled) == 2
    assert "labelled.jsonl has nothing that a model" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"text": "w1", "label": "dog"}\n')
    assert run(checkpoint, tmp_path / "out", texts) == 2
    assert "texts.jsonl has nothing that a model" in capsys.readouterr().err
    one = ["evaluate", "--checkpoint", str(checkpoint), "--annotations"]
    assert main([*one, *map(str, annotations)]) == 2
    assert "several need --suite" in capsys.readouterr().err


@pytest.fixture
def classifying(monkeypatch):
    """A model in name only, of cats and dogs; it takes all texts for cats."""
    tasks, classes = ("classification", "text_classification"), ("cat", "dog")
    its = SimpleNamespace(can=tasks.__contains__, origin="a model", batch_size=2)
    its.predictor, its.classes, its.num_media = its, classes, 1
    its.scores = lambda texts: np.log([[0.7, 0.3]] * len(texts))
    monkeypatch.setattr(options, "load_predictor", lambda args, task: its)
    monkeypatch.setattr(texts, "TextClassifier", lambda predictor: its)
    monkeypatch.setattr(runner, "Classifier", lambda predictor, views: its)


def test_a_set_of_other_labels_is_left_out_and_the_next_is_tried(
    classifying, tmp_path, capsys
):
    sets = {
        "good": ("text", "cat", "dog"),
        "foreign": ("text", "cat", "cow"),
        "pictures": ("image", "cow", "cow"),
        "third": ("text", "cat", "cat"),
    }
    files = [tmp_path / f"{name}.jsonl" for name in sets]
    for path, (what, *labels) in zip(files, sets.values(), strict=True):
        named = [(str(number), label) for number, label in enumerate(labels)]
        lines = ({"id": name, what: name, "label": label} for name, label in named)
        path.write_text("\n".join(map(json.dumps, lines)))
    for name in ("0", "1"):
        (tmp_path / name).touch()
    assert run("none", tmp_path / "out", *files) == 1
    assert table(tmp_path / "out") == [
        ["good.jsonl", "", "text_classification", "2"],
        ["third.jsonl", "", "text_classification", "2"],
    ]
    said, printed = (tmp_path / "out" / "results.md").read_text(), capsys.readouterr()
    assert "2 left out:" in said and "incomplete" not in said
    for name, count in (("foreign", 1), ("pictures", 2)):
        reason = f"{name}.jsonl: 0: {count} of 2 labels are outside the set"
        assert f"- {reason}" in said and f"left out {reason}" in printed.err
    assert "third.jsonl" in printed.out
    assert run("none", tmp_path / "out", *files, extra=("--max-bad-share", 0.5)) == 1
    rows = [row[0] for row in table(tmp_path / "out")]
    assert rows == ["good.jsonl", "foreign.jsonl", "third.jsonl"]


def test_the_table_has_kinds_and_how_boxes_were_decoded():
    domain = {"cider": 0.5, "n": 2}
    metrics = {
        "caption": {"cider": 0.25, "n": 3, "by_kind": {"in-domain": domain}},
        "grounding": {"accuracy_50": 1.0, "n": 1},
    }
    its = Decoding(method="greedy")
    predictor = SimpleNamespace(
        decoding=its,
        caption_decoding=its.config(9, 2),
        answer_decoding=its.config(9, 1),
    )
    how = suite._decodings(predictor)  # type: ignore[arg-type]
    measured = Measured("a.jsonl", "", (), Results(metrics, {}, {}, 1.0), how)
    said = "greedy, max length 9, min length 2"
    assert [row[2:] for row in rows([measured])] == [
        ("caption", "3", "cider 25.0", said),
        ("caption/in-domain", "2", "cider 50.0", said),
        (
            *("grounding", "1", "accuracy 50 100.0"),
            "greedy, among boxes that have an area",
        ),
    ]


def record(**changed):
    return Record(
        **{"id": "a", "prediction": "b", "truth": ("b",), "score": 0.5} | changed
    )


def test_quality_orders_predictions_of_every_task():
    assert quality("qa", record()) == 1 and quality("qa", record(prediction="c")) == 0
    voted = record(votes=("b",) * 2 + ("c",) * 8)
    assert quality("qa", voted) == pytest.approx(0.6)
    exact, close, off = (
        quality("caption", record(prediction=text, truth=("a red dog runs",)))
        for text in ("A red dog runs.", "a red cat runs", "the blue sky")
    )
    assert exact == pytest.approx(1) and exact > close > off == 0
    true = (0.0, 0.0, 0.5, 0.5)
    assert quality("grounding", record(box=true, true_box=true)) == 1
    half = record(box=(0.0, 0.0, 0.5, 0.25), true_box=true)
    assert quality("grounding", half) == pytest.approx(0.5)
    assert quality("grounding", record(box=(float("nan"),) * 4, true_box=true)) == 0
    assert quality("retrieval", record(rank=3)) == 0.25


def test_the_surest_come_first_among_the_best_and_among_the_worst():
    ranks, scores = (0, 3, 0, 1, 3, 2, 0, 1), (0.2, 0.5, 0.9, 0.1, 0.7, 0.3, 0.4, 0.8)
    records = [
        record(id=str(place), rank=rank, score=score)
        for place, (rank, score) in enumerate(zip(ranks, scores, strict=True))
    ]
    chosen = best_and_worst("classification", records)
    ids = {name: "".join(its.id for its in chosen[name]) for name in chosen}
    assert ids == {"best": "2607", "worst": "4153"}
    assert best_and_worst("classification", records[:1]) == {"best": records[:1]}


def test_right_and_wrong_are_what_a_task_means_by_it():
    assert right("qa", record()) is True
    assert right("qa", record(prediction="c")) is False
    voted = record(votes=("b",) * 2 + ("c",) * 8, truth=("c",))
    assert right("qa", voted) is True
    assert right("qa", record(prediction="d", votes=voted.votes)) is False
    assert right("caption", record()) is None
    assert right("classification", record(rank=0)) is True
    assert right("retrieval", record(rank=1)) is False
    # An answer counts as it does in the score: cleaned, and against the first alone.
    truth = "a cat", "dog"
    two = [record(prediction=text, truth=truth) for text in ("A  Cat", "dog")]
    assert [right("qa", its) for its in two] == [True, False]
    asked = [AnswerRecord(its.prediction, its.truth[0]) for its in two]
    assert score_answers(asked)["accuracy"] == 0.5
    assert 'class="right"' in _line(record(prediction="A cat.", truth=("b", "a cat")))
    assert 'class="wrong"' in _line(dataclasses.replace(two[1], question="what"))
    number = record(prediction="3.5", truth=("4",))
    assert right("text_classification", number) is None
    assert quality("text_classification", number) == pytest.approx(2 / 3)
    true = (0.0, 0.0, 0.5, 0.5)
    for height, expected in ((0.3, True), (0.2, False)):
        found = record(box=(0.0, 0.0, 0.5, height), true_box=true, truth=("text",))
        assert right("grounding", found) is expected


def test_the_page_marks_answers_but_no_captions():
    records = {
        "caption": (record(prediction="a cat"),),
        "grounding": (record(box=(0, 0, 1, 1), true_box=(0, 0, 1, 0.9)),),
        "qa": (record(prediction="no"),),
    }
    metrics = {"qa": {"accuracy": 0.5, "kinds/x": 0.25, "n": 2}}
    results = Results(metrics, records, {}, 1.0)
    page = gallery([Measured("a.jsonl", "", (), results, {})], {})
    assert '<td class="">a cat</td>' in page and '<td class="wrong">no</td>' in page
    assert page.count('class="right"') == 1  # the box
    assert "<td><span>accuracy 50.0</span><span>kinds/x 25.0</span></td>" in page


def test_of_a_prepared_set_only_what_is_shown_is_read(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")

    class Counted(Records):
        """A hundred images; which of them were read."""

        def __init__(self):
            names = (f"{number:02}" for number in range(100))
            self.described = [Example(n, tmp_path / "a.png") for n in names]
            self._length, self.read = 100, []

        def __getitem__(self, place):
            self.read.append(place)
            return self.described[place]

    images = Counted()
    said = tuple(
        record(id=e.id, example=e.id, prediction="b" if n < 50 else "c", score=n / 100)
        for n, e in enumerate(images.described)
    )
    results = Results({"qa": {"n": 100}}, {"qa": said}, {}, 1.0)
    page = gallery([Measured("shapes", "", images, results, {})], {})
    assert page.count("data:image/png") == 12
    assert sorted(images.read) == [*range(44, 50), *range(94, 100)]


def test_boxes_are_drawn_on_the_picture(tmp_path):
    Image.new("RGB", (60, 30), "gray").save(tmp_path / "a.png")
    line = {"image": "a.png", "phrase": "it", "box": [0.25, 0.25, 0.75, 0.75]}
    (tmp_path / "a.jsonl").write_text(json.dumps(line) + "\n")
    examples = read_jsonl(tmp_path / "a.jsonl")
    found = record(
        example=examples[0].id, box=(0.1, 0.1, 0.9, 0.9), true_box=tuple(line["box"])
    )
    from mplug2_jax.evaluation import gallery as module

    pixels = module._picture(examples[0], found).astype(int)
    side = module.SIDE
    red, green = (np.array(c) for c in ([215, 48, 39], [26, 152, 80]))
    assert (pixels[round(0.5 * side), round(0.25 * side)] == green).all()
    assert (pixels[round(0.5 * side), round(0.1 * side)] == red).all()
    results = Results({"grounding": {"n": 1}}, {"grounding": (found,)}, {}, 1.0)
    page = gallery([Measured("a.jsonl", "", examples, results, {})], {"made": "<now>"})
    assert "&lt;now&gt;" in page and page.count("data:image/png") == 1
