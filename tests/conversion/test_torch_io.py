"""PyTorch files of every layout, and what is refused."""

import argparse
import collections
import pickle
import sys
import zipfile

import ml_dtypes
import numpy as np
import pytest
import torch

from mplug2_jax.checkpoint.lazy import LazyArray
from mplug2_jax.conversion.torch_io import open_tensors, write_torch

WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "step": torch.tensor(7)}


def values(file):
    return {key: tensor.read() for key, tensor in file.tensors.items()}


def check(file):
    assert np.array_equal(values(file)["a.weight"], WEIGHTS["a.weight"])
    assert values(file)["step"] == 7 and file.tensors["step"].shape == ()


@pytest.mark.parametrize("container", ["model", "module", "state_dict", None])
def test_containers(save, container):
    others = {"optimizer": {"state": {0: {"exp_avg": torch.zeros(9)}}}, "epoch": 4}
    content = {container: WEIGHTS, **others} if container else WEIGHTS
    file = open_tensors(save(content))
    check(file)
    assert file.container == container
    assert file.ignored == (("optimizer", "epoch") if container else ())


def test_arguments_and_scores_beside_the_weights(save):
    content = {"model": collections.OrderedDict(WEIGHTS), "score": np.float64(0.5)}
    content["args"] = argparse.Namespace(lr=1e-5)
    check(open_tensors(save(content)))


def test_the_format_before_zip(save):
    check(open_tensors(save(WEIGHTS, _use_new_zipfile_serialization=False)))


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_torchscript(tmp_path):
    module = torch.jit.script(torch.nn.Linear(3, 2))
    module.save(str(tmp_path / "clip.pt"))
    file = open_tensors(tmp_path / "clip.pt")
    assert np.array_equal(values(file)["weight"], module.weight.detach())


def test_sixteen_bits(save):
    half = torch.tensor([1.5, -2.0])
    content = {"f16": half.half(), "bf16": half.bfloat16()}
    file = open_tensors(save(content))
    assert file.tensors["f16"].dtype == np.float16
    assert file.tensors["bf16"].dtype == ml_dtypes.bfloat16
    for value in values(file).values():
        assert np.array_equal(value.astype(np.float32), half)


def test_tensors_are_not_read_before_they_are_asked_for(save):
    file = open_tensors(save({"big": torch.zeros(1000, 1000)}))
    array = file.tensors["big"].read()
    with open("/proc/self/maps") as maps:
        assert str(file.path) in maps.read()  # a view of the mapped file
    assert array.shape == (1000, 1000)


class Code:
    def __reduce__(self):
        return print, ("pickled code was run",)


def test_pickled_code_is_refused_and_not_run(save, capsys):
    path = save({"model": WEIGHTS, "extra": Code()})
    with pytest.raises(ValueError, match=r"would run code when read \(.*print\)"):
        open_tensors(path)
    assert "was run" not in capsys.readouterr().out


def test_numbers_of_objects_are_refused(save):
    class Smuggled:
        def __reduce__(self):
            return np._core.multiarray.scalar, (np.dtype("O"), b"x")

    with pytest.raises(ValueError, match="would run code when read"):
        open_tensors(save({"model": WEIGHTS, "extra": Smuggled()}))


@pytest.mark.parametrize("old", [False, True])
def test_truncated(save, old):
    path = save({"a": torch.zeros(5000)}, _use_new_zipfile_serialization=not old)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="is truncated"):
        open_tensors(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x00" * 64])
def test_no_checkpoint(tmp_path, content):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(ValueError, match="is not a checkpoint"):
        open_tensors(tmp_path / "x.pth")


def test_other_archives_and_pickles(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ValueError, match="not one that PyTorch wrote"):
        open_tensors(tmp_path / "x.zip")
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"a": 1}, protocol=2))
    with pytest.raises(ValueError, match="not one that PyTorch wrote|damaged"):
        open_tensors(tmp_path / "x.pkl")


@pytest.mark.parametrize("content", [{"epoch": 3}, [1, 2]])
def test_no_tensors(save, content):
    with pytest.raises(ValueError, match="holds no tensors: expected a state dict"):
        open_tensors(save(content))


def test_without_pytorch(save, monkeypatch):
    path = save(WEIGHTS)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ValueError, match="run `pip install torch`"):
        open_tensors(path)


def test_what_is_written_shares_storage_where_objects_are_shared(tmp_path):
    shared = LazyArray.of(np.arange(4, dtype=np.float32))
    single = LazyArray.of(np.array(3, np.int64))
    tensors = {"x": shared, "y": shared, "z": single}
    tensors["b"] = LazyArray.of(np.array([1.5], ml_dtypes.bfloat16))
    write_torch(tmp_path / "out.pth", tensors, "model")
    state = torch.load(tmp_path / "out.pth", weights_only=True)["model"]
    assert state["x"].data_ptr() == state["y"].data_ptr()
    assert state["z"].shape == () and state["z"].dtype == torch.int64
    assert state["b"].dtype == torch.bfloat16 and state["b"].item() == 1.5
