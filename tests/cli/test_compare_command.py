"""`mplug2 compare`: equal runs pass, different ones are named."""

import functools

import goldens
import numpy as np
import pytest

from mplug2_jax.checkpoint.load import Metadata, save_checkpoint
from mplug2_jax.cli.main import main
from mplug2_jax.evaluation import reference
from mplug2_jax.models.mplug2 import MODULES


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare") / "model"
    metadata = Metadata(goldens.config("proj"), MODULES)
    save_checkpoint(folder, goldens.params("proj"), metadata)
    return folder


@pytest.fixture(scope="module")
def outputs(checkpoint):
    """The model's outputs on the golden's inputs, computed once per task."""
    run_model = reference.run_model  # the real one, whatever a test puts there
    return functools.cache(
        lambda task: run_model(checkpoint, task, goldens.arrays("proj"))
    )


@pytest.fixture
def run(checkpoint, tmp_path, monkeypatch):
    """Compares with the golden's arrays, some changed or removed; the exit status."""
    monkeypatch.setenv("MPLUG2_NO_CACHE", "1")

    def command(task, *options, remove=(), **changes):
        arrays = {**goldens.arrays("proj"), **changes}
        kept = {key: value for key, value in arrays.items() if key not in remove}
        np.savez(tmp_path / "io.npz", **kept)
        files = ["--checkpoint", str(checkpoint), "--reference"]
        line = [*files, str(tmp_path / "io.npz"), "--task", task, *options]
        return main(["compare", *line])

    return command


@pytest.fixture
def compare(run, outputs, monkeypatch):
    """The same where no input is changed."""
    monkeypatch.setattr(reference, "run_model", lambda _, task, __: outputs(task))
    return run


@pytest.mark.parametrize(
    "task, tensors",
    [
        ("caption", "vision_tokens universal_vision visual_embeds caption_logits"),
        ("qa", "question_states fusion_image fusion_text answer_logits qa_loss"),
    ],
)
def test_the_official_outputs(compare, capsys, task, tensors):
    assert compare(task) == 0
    lines = capsys.readouterr().out.splitlines()
    verdicts = {line.split()[0]: line.split()[-1] for line in lines[:-1]}
    assert len(verdicts) == 5 and {verdicts[name] for name in tensors.split()} == {"ok"}
    assert lines[-1] == "0 of 5 tensors differ by more than 0.0001"


def test_a_difference_is_named(compare, capsys):
    logits = goldens.arrays("proj")["caption_logits"].copy()
    logits[1, 2, 3] += 0.25
    assert compare("caption", caption_logits=logits) == 1
    (line,) = [x for x in capsys.readouterr().out.splitlines() if "DIFFERS" in x]
    assert line.split()[:2] == ["caption_logits", "2.500e-01"]
    assert compare("caption", "--atol", "0.3", caption_logits=logits) == 0


def test_nan_differs(compare):
    assert compare("qa", qa_loss=np.float32(np.nan)) == 1


def test_only_what_the_file_has(compare, capsys):
    names = ("vision_tokens", "universal_vision", "visual_embeds", "caption_loss")
    assert compare("caption", remove=names) == 0
    assert "0 of 1 tensors" in capsys.readouterr().out
    assert compare("caption", remove=(*names, "caption_logits")) == 2
    assert "nothing to compare" in capsys.readouterr().err


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"remove": ["question_ids"]}, "has no question_ids; it has"),
        ({"qa_video": np.zeros((3, 3, 2, 28, 28))}, "checkpoint expects (B, 3, T, 42"),
    ],
)
def test_references_that_do_not_fit(run, capsys, changes, sentence):
    assert run("qa", **changes) == 2
    assert sentence in capsys.readouterr().err


def test_outputs_of_another_size(compare, capsys):
    assert compare("qa", fusion_text=np.zeros((3, 6, 1))) == 2
    assert "models of different sizes" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"hello"])
def test_no_npz(checkpoint, tmp_path, capsys, content):
    path = tmp_path / "io.npz"
    path.write_bytes(content)
    line = ["--checkpoint", str(checkpoint), "--reference", str(path), "--task", "qa"]
    assert main(["compare", *line]) == 2
    assert "is not an .npz file" in capsys.readouterr().err
