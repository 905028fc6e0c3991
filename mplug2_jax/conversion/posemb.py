"""Position embeddings for another image size."""

import math

import numpy as np
from jaxtyping import Float


def resize_position_embedding(
    table: Float[np.ndarray, "1+P W"], patches: int
) -> Float[np.ndarray, "1+Q W"]:
    """Resamples a square grid of embeddings to `patches` ones; row 0 (class) is kept.

    Bilinear with half-pixel centres and without antialiasing, as PyTorch's
    `interpolate(mode="bilinear", align_corners=False)` does.

    Raises:
      ValueError: one of the two grids is not square.
    """
    old, new = _side(len(table) - 1), _side(patches)
    if old == new:
        return table
    matrix = _bilinear(old, new)
    grid = table[1:].reshape(old, old, -1).astype(np.float64)
    grid = np.einsum("yi,xj,ijw->yxw", matrix, matrix, grid)
    grid = grid.reshape(new * new, -1).astype(table.dtype)
    return np.concatenate([table[:1], grid])


def _side(patches: int) -> int:
    side = math.isqrt(max(patches, 0))
    if side * side != patches or side == 0:
        raise ValueError(
            f"A position embedding of 1 + {patches} rows belongs to no square image; "
            "expected 1 + the square of the patches along one side."
        )
    return side


def _bilinear(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """Weights of each old cell in each new one."""
    centre = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    low = np.floor(centre).astype(int)
    high = np.minimum(low + 1, old - 1)
    share = centre - low
    matrix = np.zeros((new, old))
    rows = np.arange(new)
    np.add.at(matrix, (rows, low), 1 - share)
    np.add.at(matrix, (rows, high), share)
    return matrix
