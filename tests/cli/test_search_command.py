"""`mplug2 index` and `mplug2 search` on real files."""

import json
import logging
import os
import shutil

import numpy as np
import pytest
import small

from mplug2_jax.index import FILE, Index
from mplug2_jax.retriever import Retriever
from mplug2_jax.tasks.base import COMPOSITION

QUERY = "w1 w2 w3"


@pytest.fixture(scope="module")
def able(tmp_path_factory):
    """A checkpoint with pretraining's heads."""
    return small.save_pretrained(tmp_path_factory.mktemp("able") / "checkpoint")


@pytest.fixture(scope="module")
def retriever(able):
    return Retriever.from_checkpoint(able, batch_size=2)


@pytest.fixture
def indexed(mplug2, able, clips, tmp_path):
    folder = tmp_path / "index"
    model = ("--checkpoint", able, "--batch-size", 2, "--devices", 1)
    status, lines, _ = mplug2("index", *clips, clips[0], *model, "--output", folder)
    assert status == 0 and lines == [f"{folder}: 3 files"]
    return folder


def test_only_what_retrieval_uses_is_loaded(retriever, able):
    used = COMPOSITION["retrieval"].modules
    assert set(retriever.predictor.params) == set(used) - {"local_temporal"}
    first = Retriever.from_checkpoint(able, matching=False)
    assert set(used) - set(first.predictor.model.modules) == {"fusion", "matching"}
    assert first.fingerprint == retriever.fingerprint


def test_what_is_indexed_is_found(mplug2, retriever, clips, indexed):
    texts, media = retriever.encode_texts([QUERY]), retriever.encode_media(clips)
    scores = media.features @ texts.features[0]
    odds = retriever.match(texts, media, [(0, 0), (0, 1), (0, 2)])
    index = Index.load(indexed)
    np.testing.assert_allclose(index.features, media.features, atol=1e-5)
    arguments = ("search", QUERY, "--index", indexed, "--batch-size", 2)
    status, lines, _ = mplug2(*arguments)
    order = np.argsort(-scores)
    assert status == 0
    assert lines == [f"{os.path.abspath(clips[i])}\t{scores[i]:.4f}" for i in order]
    status, lines, _ = mplug2(*arguments, "--rerank", 2, "--json")
    found = [json.loads(line) for line in lines]
    matched = sorted(order[:2], key=lambda i: -odds[i])
    assert [h["file"] for h in found] == [clips[i] for i in (*matched, order[2])]
    assert [h["odds"] for h in found[:2]] == pytest.approx(odds[matched], abs=1e-4)
    assert found[2]["odds"] is None
    assert retriever.search(index, QUERY, 1)[0].file == clips[order[0]]


def test_texts_that_are_cut_are_counted_and_read_whole_on_demand(
    mplug2, able, retriever, indexed, caplog
):
    """Texts of 12 tokens by a checkpoint that was trained on 9."""
    longer = " ".join(f"w{index}" for index in range(20, 31))
    with caplog.at_level(logging.WARNING):
        cut = retriever.encode_texts([longer, QUERY, longer + " w31"]).features
        assert "2 of 3 texts were cut at 9 tokens; raise caption_length" in caplog.text
        caplog.clear()
        whole = Retriever.from_checkpoint(able, batch_size=2, caption_length=12)
        found = whole.encode_texts([longer]).features
        assert not caplog.text
    np.testing.assert_allclose(cut[0], cut[2], atol=1e-5)
    assert abs(found[0] - cut[0]).max() > 1e-3
    arguments = ("search", longer, "--index", indexed, "--batch-size", 2)
    _, lines, _ = mplug2(*arguments, "--caption-length", 12, "--json")
    similarity = max(Index.load(indexed).features @ found[0])
    assert json.loads(lines[0])["similarity"] == pytest.approx(similarity, abs=1e-5)
    for length, said in ((1, "it must be >= 2"), (9999, "do not fit the model's")):
        status, _, error = mplug2(*arguments, "--caption-length", length)
        assert status == 2 and said in error


def test_unreadable_files_are_named_and_left_out(mplug2, able, clips, tmp_path):
    broken, folder = tmp_path / "broken.mp4", tmp_path / "index"
    broken.write_bytes(b"nothing")
    model = ("--checkpoint", able, "--batch-size", 2, "--devices", 1)
    model += ("--output", folder)
    status, lines, error = mplug2("index", broken, clips[0], "gone.jpg", *model)
    assert status == 1 and lines == [f"{folder}: 1 files, 2 left out"]
    assert "broken.mp4" in error and "gone.jpg" in error
    assert list(Index.load(folder).files) == [clips[0]]
    status, _, error = mplug2("index", clips[0], *model)
    assert status == 2 and "is an index already" in error
    status, _, error = mplug2("index", broken, *model[:-1], tmp_path / "none")
    assert status == 2 and "None of the 1 files can be used" in error
    assert not (tmp_path / "none").exists()


def test_what_cannot_be_searched_is_one_line(
    mplug2, checkpoint, able, indexed, tmp_path, clips
):
    def error(*arguments, command="search"):
        status, lines, said = mplug2(command, *arguments)
        assert status == 2 and not lines and said.count("\n") == 1
        return said

    assert "it has no index.npz; make one" in error(QUERY, "--index", tmp_path)
    assert "The query is empty" in error(" ", "--index", indexed)
    assert "--top is 0" in error(QUERY, "--index", indexed, "--top", 0)
    lacking = ("--checkpoint", checkpoint)
    assert "has no contrastive" in error(QUERY, "--index", indexed, *lacking)
    output = ("--output", tmp_path / "other")
    assert "has no contrastive" in error(clips[0], *lacking, *output, command="index")
    many = error(clips[0], *lacking, *output, "--devices", 9, command="index")
    assert "--devices is 9, and a process has 8 here" in many
    broken = tmp_path / "broken"
    shutil.copytree(indexed, broken)
    (broken / FILE).write_bytes((indexed / FILE).read_bytes()[:300])
    assert "index.npz is damaged" in error(QUERY, "--index", broken)
    stale = Index(**{**vars(Index.load(indexed)), "fingerprint": "another"})
    stale.save(indexed, overwrite=True)
    assert "made by another checkpoint" in error(QUERY, "--index", indexed)
    with pytest.raises(ValueError, match="exists already"):
        stale.save(indexed)
