"""Files that do not fit: one sentence, and nothing left behind."""

import errno
import json
import os
import subprocess
import sys

import goldens
import numpy as np
import pytest
import torch

from mplug2_jax.checkpoint.load import load_checkpoint, read_metadata
from mplug2_jax.conversion.convert import (
    ConversionError,
    convert_file,
    export_checkpoint,
)
from mplug2_jax.conversion.posemb import resize_position_embedding
from mplug2_jax.tasks.base import COMPOSITION

KEY = "text_encoder.encoder.layer.1.output.dense.weight"
TIED = "text_decoder.cls.predictions.decoder.weight"
POSITIONS = "visual_encoder.visual.positional_embedding"


@pytest.fixture
def refused(save, options, tmp_path):
    """Converts, expects the sentence, and that the folder is as it was."""

    def check(state, sentence, **changes):
        path = save({"model": state})
        before = sorted(os.listdir(tmp_path))
        with pytest.raises(ValueError, match=sentence) as caught:
            convert_file(path, tmp_path / "model", options(**changes))
        assert sorted(os.listdir(tmp_path)) == before
        return caught.value

    return check


def test_missing(refused, state):
    del state[KEY]
    error = refused(state, rf"1 missing \({KEY}\)")
    assert isinstance(error, ConversionError) and error.report.missing == [KEY]


def test_unexpected_and_wrong_shape_are_told_together(refused, state):
    state["novelty"] = torch.zeros(2)
    state[KEY] = state[KEY].T.contiguous()
    refused(state, "1 unexpected .novelty.; 1 of another shape")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_not_finite(refused, state, value):
    packed = "visual_encoder.visual.transformer.resblocks.1.attn.in_proj_bias"
    for key in (KEY, packed, "visn_emb_norm.bias"):
        state[key] = state[key].clone()
        state[key].view(-1)[::100] = value  # query, key and value, where packed
    error = refused(state, "3 not finite")
    assert sorted(error.report.not_finite) == [KEY, "visn_emb_norm.bias", packed]


def test_tied_weights_that_differ(refused, state):
    state[TIED] = state[TIED].clone()
    state[TIED][0, 0] += 1
    refused(state, f"1 tied to a tensor of other values .{TIED}")


def test_configuration_of_another_size(refused, state):
    refused(state, "contradicts the file", bert=None, size="base")


def test_another_models_weights(refused):
    refused({"resnet.conv1.weight": torch.zeros(3)}, "another model's weights")


def test_vocabulary_of_another_size(refused, state):
    class Tokenizer:
        vocab_size = 7

    refused(state, "has 7 words, the weights have 120", tokenizer=Tokenizer())


def test_missing_and_allowed_is_initialised(save, state, options, tmp_path):
    del state[KEY]
    how = options(allow_missing=r"layer\.1\.output\.dense", seed=3)
    report = convert_file(save({"model": state}), tmp_path / "model", how)
    assert report.initialised == [KEY]
    params, _ = load_checkpoint(tmp_path / "model")
    kernel = params["text"]["layers"]["mlp"]["down"]["kernel"]
    complete = goldens.params("base")["text"]["layers"]["mlp"]["down"]["kernel"]
    assert np.array_equal(kernel[0], complete[0])  # the other layer of the stack
    assert not np.array_equal(kernel[1], complete[1])
    assert 0.01 < float(kernel[1].std()) < 0.03  # BERT's 0.02


def test_image_size(save, state, options, tmp_path):
    how = options(image_size=56, modules=COMPOSITION["captioning"].modules)
    convert_file(save({"model": state}), tmp_path / "model", how)
    params, metadata = load_checkpoint(tmp_path / "model")
    assert metadata.config.vision.image_size == 56
    assert metadata.modules == COMPOSITION["captioning"].modules
    resized = resize_position_embedding(state[POSITIONS].numpy(), 16)
    assert np.array_equal(params["vision"]["position_embedding"], resized)


def test_image_size_that_patches_do_not_divide(refused, state):
    refused(state, "no multiple of vision.patch_size", image_size=30)


def test_existing_output(save, state, options, tmp_path):
    path = save({"model": state})
    convert_file(path, tmp_path / "model", options())
    with pytest.raises(ValueError, match="exists already"):
        convert_file(path, tmp_path / "model", options())
    how = options(overwrite=True, modules=COMPOSITION["captioning"].modules)
    convert_file(path, tmp_path / "model", how)
    assert "fusion" not in read_metadata(tmp_path / "model").modules


def test_no_other_folder_is_overwritten(save, state, options, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    with pytest.raises(ValueError, match="no checkpoint, and is not overwritten"):
        convert_file(save({"model": state}), tmp_path / "home", options(overwrite=True))
    assert (tmp_path / "home" / "letter.txt").read_text() == "dear"


def test_a_failed_overwrite_keeps_what_was_there(save, state, options, tmp_path):
    convert_file(save({"model": state}), tmp_path / "model", options())
    state[KEY] = torch.full_like(state[KEY], torch.nan)
    with pytest.raises(ConversionError):
        path = save({"model": state}, "broken.pth")
        convert_file(path, tmp_path / "model", options(overwrite=True))
    load_checkpoint(tmp_path / "model")


FULL_DISK = """
import json, resource, sys
from pathlib import Path
from mplug2_jax.conversion.convert import Options, convert_file, export_checkpoint
source, target, limit = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    if source.is_dir():
        export_checkpoint(source, target)
    else:
        bert = json.loads(sys.argv[4])
        convert_file(source, target, Options(bert=bert, keep_dead=True))
except OSError as error:
    print(error)
    sys.exit(2)
"""


@pytest.mark.parametrize("suffix", ["", ".pth", ".safetensors"])
def test_full_disk(save, state, converted, tmp_path, suffix):
    """The limit on a file's size fails writes as a full disk does."""
    source = converted[0] if suffix else save({"model": state})
    target, before = tmp_path / f"out{suffix}", sorted(os.listdir(tmp_path))
    config = json.dumps(goldens.read_json("base", "config.json")["bert"])
    command = [sys.executable, "-c", FULL_DISK, source, target, "300000", config]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 2, run.stderr
    assert len(run.stdout.splitlines()) == 1 and "Traceback" not in run.stderr
    assert run.stdout.startswith(f"Writing {target} failed and nothing of it was kept")
    if suffix != ".pth":  # PyTorch does not say why
        assert os.strerror(errno.EFBIG) in run.stdout
    assert sorted(os.listdir(tmp_path)) == before


def test_export_to_an_existing_file(converted, tmp_path):
    (tmp_path / "out.pth").write_text("mine")
    with pytest.raises(ValueError, match="exists already"):
        export_checkpoint(converted[0], tmp_path / "out.pth")
    assert (tmp_path / "out.pth").read_text() == "mine"
