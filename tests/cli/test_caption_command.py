"""`mplug2 caption` on real files."""

import argparse
import dataclasses
import json
import math
from pathlib import Path

import pytest
import small
from PIL import Image

from mplug2_jax.checkpoint.parts import find_decoding
from mplug2_jax.cli import caption, options
from mplug2_jax.decoding.settings import Decoding
from mplug2_jax.prediction import Hypothesis, Prediction

SMALL = ("--batch-size", 2, "--beam-size", small.BEAM)


@pytest.fixture(scope="module")
def captions(clips):
    return [found.text for found in small.predictor().caption(clips)]


def test_one_line_per_file(mplug2, checkpoint, clips, captions):
    status, lines, _ = mplug2("caption", *clips, "--checkpoint", checkpoint, *SMALL)
    assert status == 0
    assert lines == [f"{c}\t{text}" for c, text in zip(clips, captions, strict=True)]


def test_json_with_the_best_few(mplug2, checkpoint, clips, captions):
    arguments = ("caption", *clips, "--checkpoint", checkpoint, *SMALL)
    _, lines, _ = mplug2(*arguments, "--json", "--top-k", 3)
    found = [json.loads(line) for line in lines]
    assert [item["file"] for item in found] == clips
    assert [item["caption"] for item in found] == captions
    for item in found:
        scores = [text["score"] for text in item["captions"]]
        assert len(scores) == 3 and scores == sorted(scores, reverse=True)
        assert item["score"] == scores[0] < 0
    _, lines, _ = mplug2(*arguments, "--scores", "--top-k", 2)
    assert len(lines) == 6
    file, text, score = lines[0].split("\t")
    assert (file, text) == (clips[0], captions[0])
    assert float(score) == pytest.approx(found[0]["score"], abs=1e-3)


def test_the_score_of_no_text_is_null(capsys):
    """JSON has no -Infinity, the score of a search that found nothing."""
    nothing = Prediction((Hypothesis("", -math.inf),))
    caption._show("a.mp4", nothing, argparse.Namespace(json=True, top_k=1))
    said = capsys.readouterr().out
    assert said == '{"file": "a.mp4", "caption": "", "score": null}\n'


def test_a_bad_file_does_not_stop_the_others(
    mplug2, checkpoint, clips, captions, tmp_path
):
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"nothing that FFmpeg knows")
    files = [clips[0], bad, clips[1], tmp_path / "none.mp4", clips[2]]
    status, lines, errors = mplug2(
        "caption", *files, "--checkpoint", checkpoint, *SMALL
    )
    assert status == 1
    assert [line.split("\t")[1] for line in lines] == captions
    assert len(errors.strip().splitlines()) == 2
    assert "bad.mp4" in errors and "none.mp4" in errors


def test_rules_and_methods_are_chosen():
    parser = argparse.ArgumentParser()
    caption.add_arguments(parser)
    given = ["a.mp4", "--checkpoint", "x", "--method", "sample", "--top-p", "0.9"]
    given += ["--temperature", "0.7", "--seed", "5", "--beam-size", "2"]
    changed = options.decoding_of(parser.parse_args([*given, "--rule", "standard"]))
    assert Decoding(**changed) == Decoding(
        "sample", "standard", beam_size=2, temperature=0.7, top_p=0.9, seed=5
    )
    assert options.decoding_of(parser.parse_args(given[:3])) == {}


def test_what_is_not_chosen_is_as_the_run_was_judged():
    """Of converted checkpoints and older ones nobody knows: the defaults."""
    folder, converted = Path("model"), small.metadata()
    assert find_decoding(folder, converted, {}) == Decoding(rule="upstream")
    judged = dataclasses.asdict(Decoding(beam_size=3, min_caption_length=8))
    trained = dataclasses.replace(converted, decoding=judged, decoding_rule="standard")
    assert find_decoding(folder, trained, {}) == Decoding(
        rule="standard", beam_size=3, min_caption_length=8
    )
    assert find_decoding(folder, trained, {"beam_size": 2, "seed": 1}) == Decoding(
        rule="standard", beam_size=2, min_caption_length=8, seed=1
    )
    kept = dataclasses.replace(trained, decoding={"rule": "upstream"})
    for changed, rule in (({}, "upstream"), ({"rule": "standard"}, "standard")):
        assert find_decoding(folder, kept, changed).rule == rule
    odd = dataclasses.replace(trained, decoding={"beams": 3})
    with pytest.raises(ValueError, match="has the unknown decoding 'beams'"):
        find_decoding(folder, odd, {})


def test_errors_are_one_line(mplug2, checkpoint, clips, tmp_path):
    status, lines, error = mplug2("caption", clips[0], "--checkpoint", tmp_path / "no")
    assert (status, lines) == (2, [])
    assert error.startswith("mplug2 caption: error: There is no checkpoint at")
    status, _, error = mplug2(
        "caption", clips[0], "--checkpoint", checkpoint, "--top-k", 9
    )
    assert status == 2 and "there are 1 to 5" in error
    photo = tmp_path / "photo.gif.txt"
    Image.new("RGB", (8, 8)).save(photo, format="GIF")
    status, _, error = mplug2(
        "caption", photo, "--checkpoint", checkpoint, "--num-frames", 0
    )
    assert status == 2 and "number of frames is 0" in error
