"""`mplug2 convert` as a user types it."""

import json
import os

import goldens
import numpy as np
import pytest
import torch

from mplug2_jax.checkpoint.load import load_checkpoint, read_metadata
from mplug2_jax.cli.main import main

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.fixture
def files(tmp_path):
    """weights.pth of the golden `base`, its bert.json, and a vocabulary."""
    state = {k: torch.tensor(v) for k, v in goldens.state_dict("base").items()}
    torch.save({"model": state, "epoch": 1}, tmp_path / "weights.pth")
    bert = goldens.read_json("base", "config.json")["bert"]
    (tmp_path / "bert.json").write_text(json.dumps(bert))
    words = WORDS + [f"word{i}" for i in range(bert["vocab_size"] - len(WORDS))]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    return tmp_path


@pytest.fixture
def run(files, monkeypatch):
    """Runs the command in the folder of `files`; returns its exit status."""
    monkeypatch.chdir(files)
    monkeypatch.setenv("MPLUG2_NO_CACHE", "1")
    return lambda line: main(["convert", *line.split()])


@pytest.fixture
def refused(run, capsys):
    """Expects one line of error, exit status 2 and an unchanged folder."""

    def check(line, *parts):
        before = sorted(os.listdir())
        assert run(line) == 2
        printed = capsys.readouterr()
        (error,) = printed.err.splitlines()
        assert error.startswith("mplug2 convert: error: ")
        assert all(part in error for part in parts), error
        assert sorted(os.listdir()) == before
        return printed.out

    return check


def test_there_and_back(run, files, capsys):
    line = "--from weights.pth --to model --bert-config bert.json --keep-dead"
    assert run(f"{line} --vocab vocab.txt") == 0
    printed = capsys.readouterr().out
    assert "323 matched, 2 tied, 104 dead, 0 initialised, 0 missing" in printed
    assert "dead: 18 x CLIP's text tower, never run" in printed
    assert sorted(os.listdir("model")) == [
        "config.json", "conversion_report.json", "conversion_report.txt",
        "dead.safetensors", "params", "tokenizer",
    ]  # fmt: skip
    report = json.loads((files / "model" / "conversion_report.json").read_text())
    assert len(report["matched"]) == 323 and len(report["dead"]) == 104
    assert (files / "model" / "conversion_report.txt").read_text() in printed
    assert read_metadata("model").decoding_rule == "upstream"
    assert run("--from model --to back.pth") == 0
    assert "wrote 429 tensors to back.pth" in capsys.readouterr().out
    back = torch.load("back.pth", weights_only=True)["model"]
    for key, value in goldens.state_dict("base").items():
        assert np.array_equal(back[key], value), key


def test_one_task(run, capsys):
    run("--from weights.pth --to model --bert-config bert.json --task caption")
    assert "fusion" not in load_checkpoint("model")[0]
    assert "pass --vocab" in capsys.readouterr().out


def test_the_report_of_a_failure_is_printed(run, refused, capsys):
    state = torch.load("weights.pth", weights_only=True)
    del state["model"]["visn_emb_norm.bias"]
    torch.save(state, "weights.pth")
    line = "--from weights.pth --to model --bert-config bert.json"
    printed = refused(line, "weights.pth does not fit", "visn_emb_norm.bias")
    assert "missing (1):\n  visn_emb_norm.bias" in printed
    assert run(f"{line} --allow-missing visn_emb_norm") == 0
    assert "initialised (1):\n  visn_emb_norm.bias" in capsys.readouterr().out


BERT = "--from weights.pth --to model --bert-config"


@pytest.mark.parametrize(
    "line, sentence",
    [
        ("--to model", "Give either --from, or --clip together with --bert"),
        ("--clip a --to model", "Give either --from"),
        ("--from weights.pth --clip a --bert b --to model", "Give either --from"),
        ("--from . --to x.pth --size base", "--size has no meaning"),
        ("--from . --to x.pth --universal-layers 0", "-layers has no meaning"),
        ("--from weights.pth --to model --latents 3", "--latents is for --clip with"),
        ("--from . --to x.pth", "is not a checkpoint: it holds"),
        ("--from vocab.txt --to model", "is not a checkpoint: it is neither"),
        ("--from nowhere.pth --to model", "No such file"),
        ("--from weights.pth --to model --size large", "contradicts the file"),
        (f"{BERT} vocab.txt", "is not JSON"),
        (f"{BERT} bert.json --allow-missing (", "is no regular expression"),
        (f"{BERT} bert.json --image-size 30", "no multiple of vision.patch_size"),
        (f"{BERT} bert.json --vocab short.txt", "has 5 words, the weights have 120"),
    ],
)
def test_mistakes(refused, line, sentence):
    with open("short.txt", "w") as file:
        file.write("\n".join(WORDS))
    refused(line, sentence)
