"""`mplug2 evaluate` on a small annotated set."""

import dataclasses
import io
import json
import shutil

import pytest
import small

from mplug2_jax.checkpoint.load import read_metadata
from mplug2_jax.cli.progress import Progress

SMALL = ("--batch-size", 2, "--beam-size", small.BEAM, "--devices", 1)


def annotate(path, clips, texts):
    """Every clip has its own caption and a question; the first caption is right."""
    with path.open("w") as file:
        for index, (clip, text) in enumerate(zip(clips, texts, strict=True)):
            caption = text if index == 0 else "w0 w1 w2 w3"
            asked = [
                {"question": question, "answer": "w0", "kind": f"k{index % 2}"}
                for question in small.QUESTIONS[:2]
            ]
            line = {"video": clip, "captions": [caption, "w9"], "qa": asked}
            file.write(json.dumps(line) + "\n")


def test_a_table_and_a_file(mplug2, checkpoint, clips, tmp_path):
    captions = [caption.text for caption in small.predictor().caption(clips)]
    annotate(tmp_path / "test.jsonl", clips, captions)
    output = tmp_path / "results.json"
    arguments = ("--checkpoint", checkpoint, "--annotations", tmp_path / "test.jsonl")
    status, lines, errors = mplug2(
        *("evaluate", *arguments, *SMALL, "--no-meteor", "--output", output),
    )
    assert status == 0 and "3/3 media" in errors
    table = dict(line.split() for line in lines)
    assert table["caption/exact_match"] == "33.33" and table["caption/n"] == "3"
    assert table["qa/accuracy"] == "0.00" and table["qa/k1/n"] == "2"
    written = json.loads(output.read_text())
    assert written["metrics"]["caption"]["n"] == 3
    assert [r["prediction"] for r in written["records"]["caption"]] == captions
    assert written["decoding"]["rule"] == "upstream"
    assert list(tmp_path.glob(".*")) == []


def test_texts_are_written_as_the_checkpoint_says(mplug2, checkpoint, clips, tmp_path):
    """One of an earlier version says nothing, and is read all the same."""
    folder, output = tmp_path / "own", tmp_path / "results.json"
    shutil.copytree(checkpoint, folder)
    config = json.loads((folder / "config.json").read_text())
    assert config.pop("decoding") == {} and config.pop("rerank") == 16
    assert config.pop("temperatures") == [0.001, 0.5]
    (folder / "config.json").write_text(json.dumps(config))
    assert read_metadata(folder) == read_metadata(checkpoint)
    judged = {"decoding": {"beam_size": small.BEAM, "min_caption_length": 2}}
    (folder / "config.json").write_text(json.dumps(config | judged))
    annotate(tmp_path / "test.jsonl", clips, ["w5"] * 3)
    status, _, _ = mplug2(
        *("evaluate", "--checkpoint", folder, "--batch-size", 2, "--task", "caption"),
        *("--annotations", tmp_path / "test.jsonl", "--output", output, "--no-meteor"),
        *("--devices", 1),
    )
    written = json.loads(output.read_text())
    assert status == 0 and written["decoding"] == dataclasses.asdict(
        dataclasses.replace(small.DECODING, min_caption_length=2)
    )
    captions = [caption.text for caption in small.predictor().caption(clips)]
    assert [r["prediction"] for r in written["records"]["caption"]] == captions


def test_a_bad_file_is_reported(mplug2, checkpoint, clips, tmp_path):
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"nothing")
    annotate(tmp_path / "test.jsonl", [*clips[:2], str(bad)], ["w5"] * 3)
    status, lines, errors = mplug2(
        *(
            "evaluate",
            "--checkpoint",
            checkpoint,
            *SMALL,
            "--task",
            "caption",
            "--no-meteor",
        ),
        *("--annotations", tmp_path / "test.jsonl"),
    )
    assert status == 1 and "bad.mp4" in errors
    assert dict(line.split() for line in lines)["caption/n"] == "2"


def test_errors_are_one_line(mplug2, checkpoint, tmp_path):
    (tmp_path / "test.jsonl").write_text('{"video": "a"}\n')
    arguments = ("evaluate", "--checkpoint", checkpoint, "--annotations")
    status, _, error = mplug2(*arguments, tmp_path / "test.jsonl")
    assert status == 2 and "test.jsonl, line 1: neither a caption nor" in error
    status, _, error = mplug2(*arguments, tmp_path / "test.jsonl", "--limit", 0)
    assert status == 2 and "--limit is 0" in error
    status, _, error = mplug2(*arguments, tmp_path / "tset.jsonl")
    assert status == 2 and "tset.jsonl; expected annotations in JSON lines" in error
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "dataset_info.json").touch()
    for options, message in (
        (("--max-bad-share", 2), "--max-bad-share is 2.0; expected 0 to 1"),
        (("--predictions", "x.json"), "--predictions needs --task qa or"),
        (("--task", "retrieval", "--clips", 4), "--clips needs --task classification"),
        (("--task", "retrieval", "--candidates", "x"), "--candidates needs --task qa"),
        (("--task", "caption", "--rerank", 4), "--rerank needs --task retrieval or"),
        (("--split", "tset"), "--split is tset, and every annotation is a file or"),
        (("set:test", "--suite", "--split", "tset"), "every annotation is a file or"),
        (("--dual-softmax",), "--dual-softmax needs --task retrieval or --suite"),
        (("--template", "a {}"), "--template needs --task zero_shot_classification"),
        (("--suite", "--task", "qa"), "--suite does every task, and --task is qa"),
        (("--suite", "--rerank", -1), "--rerank is -1; it must be >= 0"),
        (("--suite", "--single-frame"), "and this is --suite; leave it out"),
        (("--suite", "--crops", 3), "--crops needs --task classification or"),
        (("--suite", "--classes", "x"), "--classes needs --task zero_shot"),
        (("--task", "qa", "--candidates", "list.json"), "not a JSON list of texts"),
    ):
        (tmp_path / "list.json").write_text('{"a": 1}')
        given = [tmp_path / o if o in ("list.json", "set:test") else o for o in options]
        (tmp_path / "test.jsonl").write_text('{"video": "a.mp4", "caption": "w1"}\n')
        (tmp_path / "a.mp4").touch()
        status, _, error = mplug2(*arguments, tmp_path / "test.jsonl", *given)
        assert status == 2 and message in error


def test_bad_lines_and_media_up_to_the_stated_share(
    mplug2, checkpoint, clips, tmp_path, caplog
):
    annotate(tmp_path / "test.jsonl", [*clips[:2], "gone.mp4"], ["w5"] * 3)
    with (tmp_path / "test.jsonl").open("a") as file:
        file.write('{"video": "clip0.mp4", "caption": " "}\n')
    (tmp_path / "gone.mp4").touch()
    arguments = ("evaluate", "--checkpoint", checkpoint, *SMALL, "--task", "qa")
    arguments += ("--annotations", tmp_path / "test.jsonl", "--max-bad-share")
    status, _, error = mplug2(*arguments, 0.2)
    assert status == 2 and "test.jsonl, line 4: caption must be a text" in error
    (tmp_path / "gone.mp4").unlink()
    status, _, error = mplug2(*arguments, 0.3)
    assert status == 2 and "1 of 3 media are not in" in error and "gone.mp4" in error
    status, lines, error = mplug2(*arguments, 0.4)
    assert status == 0 and "left out gone.mp4" in error
    assert dict(line.split() for line in lines)["qa/n"] == "4"
    assert "left out" in caplog.text and "line 4" in caplog.text


def test_predictions_for_the_servers(mplug2, checkpoint, clips, tmp_path):
    """Answers nobody has annotated; of given ones in a JSON list, the likeliest."""
    asked = [
        {"question": question, "answer": None, "id": 7 + number}
        for number, question in enumerate(small.QUESTIONS[:2])
    ]
    line = {"image": clips[0], "qa": asked, "id": 42}
    (tmp_path / "test.jsonl").write_text(json.dumps(line))
    (tmp_path / "list.json").write_text('["w3 w4", "w9", "w12"]')
    output = tmp_path / "answers.json"
    arguments = ("evaluate", "--checkpoint", checkpoint, *SMALL, "--annotations")
    arguments += (tmp_path / "test.jsonl", "--predictions", output)
    given = ("--task", "qa", "--candidates", tmp_path / "list.json")
    status, lines, _ = mplug2(*arguments, *given)
    assert status == 0 and lines == [f"2 predictions are in {output}"]
    best = small.predictor().answer(
        clips[0], list(small.QUESTIONS[:2]), ["w3 w4", "w9", "w12"]
    )
    assert json.loads(output.read_text()) == [
        {"question_id": 7 + number, "answer": answer.text}
        for number, answer in enumerate(best)
    ]
    status, _, _ = mplug2(*arguments, "--task", "caption")
    caption = small.predictor().caption(clips[0]).text
    assert json.loads(output.read_text()) == [{"image_id": 42, "caption": caption}]
    asked[1]["id"] = 7
    (tmp_path / "test.jsonl").write_text(json.dumps(line))
    status, _, error = mplug2(*arguments, *given)
    assert status == 2 and "1 ids occur more than once, the first is '7'" in error


@pytest.mark.skipif(not shutil.which("java"), reason="needs java")
def test_meteor_where_there_is_java(mplug2, checkpoint, clips, tmp_path, monkeypatch):
    annotate(tmp_path / "test.jsonl", clips, ["w5"] * 3)
    arguments = ("evaluate", "--checkpoint", checkpoint, *SMALL, "--task", "caption")
    arguments += ("--annotations", tmp_path / "test.jsonl")
    _, lines, _ = mplug2(*arguments)
    with_java = dict(line.split() for line in lines)
    assert 0 <= float(with_java.pop("caption/meteor")) <= 100
    monkeypatch.setenv("PATH", "")
    status, lines, errors = mplug2(*arguments)
    assert status == 0 and dict(line.split() for line in lines) == with_java
    (said,) = (line for line in errors.splitlines() if "METEOR" in line)
    assert "needs Java: install a Java runtime" in said


def test_progress_tells_rate_and_time_left():
    stream, times = io.StringIO(), iter([0.0, 1.0, 40.0, 50.0])
    progress = Progress(stream, clock=lambda: next(times))
    for done in (2, 80, 100):
        progress(done, 100)
    # A file gets a line each half minute and the last one.
    assert [line.strip() for line in stream.getvalue().splitlines()] == [
        "80/100 media, 2.0/s, 0:10 left",
        "100/100 media, 2.0/s, 0:00 left",
    ]
    stream = io.StringIO()
    Progress(stream, "pairs")(3, 3)
    assert stream.getvalue().startswith("3/3 pairs, ")
