"""Why METEOR may be absent; its values are in test_official_scores."""

import os
import shutil
import time
from pathlib import Path

import pytest

from mplug2_jax.evaluation.captions import score_captions
from mplug2_jax.evaluation.meteor import MeteorError, meteor_score

needs_java = pytest.mark.skipif(not shutil.which("java"), reason="needs java")
CAPTION = (["a dog runs"], [["the dog ran"]])


def stand_in(folder: Path, monkeypatch, script: str) -> None:
    """Puts a program called java first on PATH."""
    java = folder / "java"
    java.write_text(f"#!/bin/sh\n{script}\n")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


@needs_java
def test_without_memory_the_reason_is_java_s_own(monkeypatch):
    monkeypatch.setattr("mplug2_jax.evaluation.meteor._JAVA", ("-Xmx1m",))
    with pytest.raises(MeteorError, match="its program ended with 1: .*heap"):
        meteor_score(*CAPTION)


def test_without_java_all_but_meteor_is_there(monkeypatch):
    monkeypatch.setenv("PATH", "")
    references = {0: ["a dog", "dogs"], 1: ["a cat", "cats"]}
    predictions = {0: "a dog", 1: "a bird"}
    with pytest.warns(UserWarning, match="install a Java runtime") as caught:
        scores = score_captions(predictions, references, meteor=True)
    assert len(caught) == 1
    assert scores == score_captions(predictions, references)
    assert "meteor" not in scores


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo broken >&2; exit 3", "ended with 3: broken"),
        ("echo 'Picked up OPTIONS' >&2; exit 1", "ended with 1: it says nothing"),
        ("echo no number", "no score but 'no number"),
        ("true", "no score but ''"),
        ("kill -9 $$", "ended with -9"),
    ],
)
def test_failures_are_named(tmp_path, monkeypatch, script, message):
    stand_in(tmp_path, monkeypatch, script)
    with pytest.raises(MeteorError, match=message):
        meteor_score(*CAPTION)


def test_a_program_that_hangs_is_stopped(tmp_path, monkeypatch):
    stand_in(tmp_path, monkeypatch, f"echo $$ > {tmp_path}/pid; exec sleep 60")
    start = time.monotonic()
    with pytest.raises(MeteorError, match=r"no score in 0\.5 s"):
        meteor_score(*CAPTION, timeout=0.5)
    assert time.monotonic() - start < 20
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.parametrize(
    ("captions", "references"), [([], []), (["a"], []), (["a", "b"], [["a"], []])]
)
def test_bad_input(captions, references):
    with pytest.raises(ValueError, match="METEOR needs captions with one reference"):
        meteor_score(captions, references)
