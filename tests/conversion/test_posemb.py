"""Resized position embeddings against PyTorch's own interpolation."""

import numpy as np
import pytest
import torch

from mplug2_jax.conversion.posemb import resize_position_embedding


@pytest.mark.parametrize("old, new", [(4, 7), (7, 4), (16, 24), (1, 3)])
def test_as_pytorch_interpolates(old, new):
    table = np.random.default_rng(0).standard_normal((1 + old * old, 5))
    table = table.astype(np.float32)
    grid = torch.tensor(table[1:]).reshape(1, old, old, 5).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(
        grid, (new, new), mode="bilinear", align_corners=False, antialias=False
    )
    resized = resize_position_embedding(table, new * new)
    expected = grid.permute(0, 2, 3, 1).reshape(new * new, 5)
    np.testing.assert_allclose(resized[1:], expected, atol=1e-5)
    assert np.array_equal(resized[0], table[0])
    assert resized.dtype == np.float32


def test_the_same_size_is_the_same_table():
    table = np.ones((5, 2), np.float32)
    assert resize_position_embedding(table, 4) is table


def test_no_square():
    with pytest.raises(ValueError, match="no square image"):
        resize_position_embedding(np.zeros((7, 2), np.float32), 4)
