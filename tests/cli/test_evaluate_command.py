"""`mplug2 evaluate` on a small annotated set."""

import io
import json

import small

from mplug2_jax.cli.evaluate import Progress

SMALL = ("--batch-size", 2, "--beam-size", small.BEAM)


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
        "evaluate", *arguments, *SMALL, "--task", "all", "--output", output
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


def test_a_bad_file_is_reported(mplug2, checkpoint, clips, tmp_path):
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"nothing")
    annotate(tmp_path / "test.jsonl", [*clips[:2], str(bad)], ["w5"] * 3)
    status, lines, errors = mplug2(
        *("evaluate", "--checkpoint", checkpoint, *SMALL, "--task", "caption"),
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
