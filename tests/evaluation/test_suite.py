"""All tasks of a checkpoint on all annotations: one table, one page of examples."""

import json
import re

import numpy as np
import pytest
import small
from PIL import Image

from mplug2_jax.cli.main import main
from mplug2_jax.data.sources import read_jsonl
from mplug2_jax.evaluation.gallery import gallery, quality
from mplug2_jax.evaluation.results import Record, Results
from mplug2_jax.evaluation.suite import Measured


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The golden model with pretraining's heads: it captions, answers and searches."""
    return small.save_pretrained(tmp_path_factory.mktemp("model") / "checkpoint")


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


def run(checkpoint, output, *annotations, extra=()):
    arguments = ["evaluate", "--suite", "--checkpoint", checkpoint, "--batch-size", 3]
    arguments += ["--beam-size", small.BEAM, "--rerank", 2, "--annotations"]
    arguments += [*annotations, *extra]
    if output is not None:
        arguments += ["--output", output]
    return main([str(argument) for argument in arguments])


def test_every_task_of_a_checkpoint(checkpoint, annotations, tmp_path, capsys):
    assert run(checkpoint, tmp_path / "out", *annotations) == 0
    table = (tmp_path / "out" / "results.md").read_text().splitlines()
    assert re.fullmatch(
        rf"checkpoint: {re.escape(str(checkpoint))}, version: \S+, commit: \S+, "
        r"date: \d{4}-\d\d-\d\d",
        table[0],
    )
    cells = [[c.strip() for c in line.split("|")[1:-1]] for line in table[2:]]
    assert [row[:1] + row[2:4] for row in cells[2:]] == [
        ["all.jsonl", "caption", "3"],
        ["all.jsonl", "qa", "3"],
        ["all.jsonl", "retrieval", "3"],
        ["qa.jsonl", "qa", "3"],
    ]
    assert all(row[5] == "beam 4, standard rule" for row in cells[2:4])
    assert "text to video/recall 1" in cells[4][4] and cells[4][5] == ""
    printed = capsys.readouterr().out
    assert printed.count("retrieval") == 1 and "all.jsonl" in printed
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    first = written["data"][0]
    assert len(first["records"]["caption"]) == first["metrics"]["caption"]["n"] == 3
    (search,) = (d["metrics"] for d in written["data"] if "retrieval" in d["metrics"])
    assert search["retrieval"]["text_to_video/recall_5"] == 1.0
    page = (tmp_path / "out" / "report.html").read_text()
    # Best and worst of three tasks and of the questions alone, all three clips each.
    assert page.count("data:image/png;base64,") == 4 * 2 * 3
    assert page.count(": best</h2>") == page.count(": worst</h2>") == 4
    assert run(checkpoint, tmp_path / "out", annotations[1]) == 0  # in its place
    assert "all.jsonl" not in (tmp_path / "out" / "results.md").read_text()


def test_a_share_of_media_may_be_unusable(checkpoint, annotations, tmp_path, capsys):
    lines = annotations[1].read_text().splitlines()
    broken = tmp_path / "broken.mp4"
    broken.write_text("no video")
    lines.append(json.dumps({"video": str(broken), "question": "w1", "answer": "w0"}))
    (tmp_path / "some.jsonl").write_text("\n".join(lines))
    shared = checkpoint, tmp_path / "out", tmp_path / "some.jsonl"
    assert run(*shared) == 1
    assert "left out" in capsys.readouterr().err
    assert run(*shared, extra=("--max-bad-share", 0.3)) == 0
    assert "1 media could not be used" in (tmp_path / "out/results.md").read_text()


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
    found = said("classify", *clips, "--classes", words, "--template", "w5 {}")
    names = [line.split("\t")[1] for line in found.splitlines()]
    labelled = tmp_path / "labelled.jsonl"
    lines = ({"video": c, "label": n} for c, n in zip(clips, names, strict=True))
    labelled.write_text("\n".join(map(json.dumps, lines)))
    asked = ("--annotations", labelled, "--task", "zero_shot_classification")
    table = said("evaluate", *asked, "--classes", words, "--template", "w5 {}")
    scores = dict(line.split() for line in table.splitlines())
    assert float(scores["zero_shot_classification/accuracy"]) == 100


def test_several_images_have_classes_but_no_captions(checkpoint, tmp_path, capsys):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (28, 28)).save(tmp_path / name)
    line = {"images": ["a.png", "b.png"], "captions": ["w1"]}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(line))
    for task in ("caption", "retrieval"):
        asked = ["--annotations", str(tmp_path / "pairs.jsonl"), "--task", task]
        assert main(["evaluate", "--checkpoint", str(checkpoint), *asked]) == 2
        assert "images; only" in capsys.readouterr().err


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
    page = gallery([Measured("a.jsonl", "", examples, results, "")], {"made": "<now>"})
    assert "&lt;now&gt;" in page and page.count("data:image/png") == 2
