"""Meshes: what fits the devices, and what is said when it does not."""

from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from mplug2_jax.sharding.mesh import AXES, MeshConfig, is_single, make_mesh
from mplug2_jax.sharding.partition import check_batch, process_part, shard_batch


@pytest.mark.parametrize(
    "config, shape",
    [
        (MeshConfig(), (8, 1, 1)),
        (MeshConfig(fsdp=8), (1, 8, 1)),
        (MeshConfig(2, 2, 2), (2, 2, 2)),
        (MeshConfig(fsdp=2, slices=2), (4, 2, 1)),
    ],
)
def test_axes_multiply_to_the_devices(config, shape):
    mesh = make_mesh(config)
    assert mesh.axis_names == AXES and tuple(mesh.shape.values()) == shape
    assert set(mesh.devices.flat) == set(jax.devices())


@pytest.mark.parametrize(
    "config",
    [MeshConfig(fsdp=3), MeshConfig(4, 1, 1), MeshConfig(tensor=16), MeshConfig(8, 2)],
)
def test_axes_that_do_not_divide_the_devices(config):
    with pytest.raises(ValueError, match="There are 8 devices, and mesh data"):
        make_mesh(config)


def test_sizes_below_one_are_named():
    with pytest.raises(ValueError, match=r"mesh\.fsdp is 0; expected at least 1"):
        make_mesh(MeshConfig(fsdp=0))
    with pytest.raises(ValueError, match=r"mesh\.data is -2"):
        make_mesh(MeshConfig(data=-2))


class Device:
    """What a mesh asks of a device of another process or slice."""

    platform = device_kind = "cpu"

    def __init__(self, index: int, process: int, **more: Any):
        self.id, self.process_index = index, process
        vars(self).update(more)


def test_slices_come_first_and_are_not_mixed():
    devices = [Device(i, 0, slice_index=i % 2) for i in range(8)]
    mesh = make_mesh(MeshConfig(fsdp=2, slices=2), devices)
    assert mesh.devices.shape == (4, 2, 1)
    slices = [[d.slice_index for d in row.flat] for row in mesh.devices]
    assert slices == [[0, 0], [0, 0], [1, 1], [1, 1]]
    with pytest.raises(ValueError, match=r"belong to 2 slices; set mesh\.slices=2"):
        make_mesh(MeshConfig(), devices)


def test_hosts_with_gpus_may_be_one_slice_or_several():
    devices = [Device(i, i // 4, slice_index=i // 4, platform="gpu") for i in range(8)]
    assert make_mesh(MeshConfig(fsdp=8), devices).devices.shape == (1, 8, 1)
    assert make_mesh(MeshConfig(fsdp=4, slices=2), devices).devices.shape == (2, 4, 1)
    with pytest.raises(ValueError, match=r"belong to 2 slices; set mesh\.slices=2"):
        make_mesh(MeshConfig(slices=4), devices)


def test_batch_that_does_not_divide(videos):
    mesh = make_mesh(MeshConfig(fsdp=8))
    check_batch(24, mesh, 3)
    with pytest.raises(ValueError, match="24 does not divide into 2 .* multiple of 16"):
        check_batch(24, mesh, 2)
    few = jax.tree.map(lambda a: a[: len(a) // 6], videos)
    with pytest.raises(ValueError, match="A batch of 4 does not divide"):
        shard_batch(few, mesh)


def test_a_batch_comes_back_as_it_was(videos):
    sharded = shard_batch(videos, make_mesh(MeshConfig(2, 2, 2)))
    jax.tree.map(np.testing.assert_array_equal, sharded, videos)
    shards = sharded.question.values.addressable_shards
    assert {shard.data.shape[0] for shard in shards} == {48 // 4}


def test_one_device_is_left_alone(videos):
    single = make_mesh(MeshConfig(), jax.devices()[:1])
    assert is_single(single) and is_single(None)
    assert shard_batch(videos, single) is videos


def mesh_of(shape, processes) -> Mesh:
    devices = [Device(i, process) for i, process in enumerate(processes)]
    return Mesh(np.array(devices, dtype=object).reshape(shape), AXES)


@pytest.mark.parametrize(
    "shape, processes, expected",
    [
        ((4, 1, 1), (0, 0, 1, 1), (0, 2)),
        ((2, 2, 1), (3, 3, 0, 0), (1, 2)),
        ((2, 1, 2), (1, 0, 1, 0), (0, 1)),
        ((2, 1, 4), (1, 2, 1, 2, 0, 3, 0, 3), (1, 2)),
    ],
)
def test_processes_that_divide_layers_load_the_same_rows(shape, processes, expected):
    assert process_part(mesh_of(shape, processes)) == expected


def test_processes_with_uneven_rows():
    with pytest.raises(ValueError, match="unevenly over 2 processes"):
        process_part(mesh_of((4, 1, 1), (0, 1, 1, 1)))
