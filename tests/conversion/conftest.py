"""Files as upstream's training scripts and Hugging Face write them."""

import goldens
import numpy as np
import pytest
import torch

from mplug2_jax.conversion.convert import Options, convert_file

_OWNERS = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}


def torch_state(name, kind="qa"):
    """A golden's weights as tensors, tied ones sharing their storage."""
    state = {k: torch.tensor(v) for k, v in goldens.state_dict(name, kind).items()}
    for key in state:
        for tied, owner in _OWNERS.items():
            if key.startswith("text_decoder") and key.endswith(tied):
                state[key] = state[key.replace(tied, owner)]
    return state


def bert_config(name):
    return goldens.read_json(name, "config.json")["bert"]


@pytest.fixture
def state():
    return torch_state("base")


@pytest.fixture(scope="session")
def torch_golden():
    return torch_state


@pytest.fixture
def options():
    """Options for the golden `base`, with changes."""
    return lambda **changes: Options(**{"bert": bert_config("base"), **changes})


@pytest.fixture
def save(tmp_path):
    """Saves an object with PyTorch and returns the path."""

    def write(content, name="weights.pth", **how):
        torch.save(content, tmp_path / name, **how)
        return tmp_path / name

    return write


@pytest.fixture(scope="session")
def converted(tmp_path_factory):
    """The golden `base` as a checkpoint folder, not to be changed, and its report."""
    folder = tmp_path_factory.mktemp("converted")
    torch.save({"model": torch_state("base")}, folder / "weights.pth")
    how = Options(bert=bert_config("base"))
    report = convert_file(folder / "weights.pth", folder / "model", how)
    return folder / "model", report


@pytest.fixture(scope="session")
def same_bits():
    def check(left, right):
        assert set(left) == set(right)
        for key, value in left.items():
            other = right[key]
            assert value.dtype == other.dtype and value.shape == other.shape, key
            assert np.array_equal(
                np.atleast_1d(value).view(np.uint8), np.atleast_1d(other).view(np.uint8)
            ), key

    return check
