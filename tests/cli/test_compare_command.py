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
    """The model's outputs, computed once per task."""
    run_model = reference.run_model  # the real one, whatever a test puts there
    return functools.cache(
        lambda task: run_model(checkpoint, task, goldens.arrays("proj"))
    )


@pytest.fixture
def write(tmp_path):
    """Writes the golden's arrays, some of them changed or removed."""

    def arrays(remove=(), **changes):
        kept = {**goldens.arrays("proj"), **changes}
        np.savez(
            tmp_path / "io.npz", **{k: v for k, v in kept.items() if k not in remove}
        )
        return str(tmp_path / "io.npz")

    return arrays


@pytest.fixture
def run(checkpoint, monkeypatch):
    """Runs the command; returns its exit status."""
    monkeypatch.setenv("MPLUG2_NO_CACHE", "1")

    def command(task, path, *options):
        line = ["--checkpoint", str(checkpoint), "--task", task, "--reference", path]
        return main(["compare", *line, *options])

    return command


@pytest.fixture
def compare(run, write, outputs, monkeypatch):
    """The same for changed arrays, with the outputs of the unchanged inputs."""
    monkeypatch.setattr(reference, "run_model", lambda _, task, __: outputs(task))

    def command(task, *options, remove=(), **changes):
        return run(task, write(remove, **changes), *options)

    return command


@pytest.mark.parametrize(
    "task, tensors",
    [
        ("caption", "vision_tokens universal_vision visual_embeds caption_logits"),
        ("qa", "question_states fusion_image fusion_text answer_logits qa_loss"),
    ],
)
def test_the_official_outputs(run, write, capsys, task, tensors):
    assert run(task, write()) == 0
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
def test_references_that_do_not_fit(run, write, capsys, changes, sentence):
    assert run("qa", write(**changes)) == 2
    assert sentence in capsys.readouterr().err


def test_outputs_of_another_size(compare, capsys):
    assert compare("qa", fusion_text=np.zeros((3, 6, 1))) == 2
    assert "models of different sizes" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"hello"])
def test_no_npz(run, tmp_path, capsys, content):
    (tmp_path / "io.npz").write_bytes(content)
    assert run("qa", str(tmp_path / "io.npz")) == 2
    assert "is not an .npz file" in capsys.readouterr().err
