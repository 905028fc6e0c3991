"""How one parameter looks in PyTorch's layout: views, so that they invert themselves.

Each function takes a leaf of our tree (one layer of it, where layers are stacked) and
returns a *view* of it shaped like the PyTorch tensor. Converting forward assigns to the
view, converting back reads it; a transform can therefore not disagree with its inverse.
All of them are plain indexing, so `jax.eval_shape` gives the shapes without memory.
"""

from collections.abc import Callable
from typing import Any

from jaxtyping import Shaped

View = Callable[[Any], Any]


def same(leaf: Shaped[Any, "..."]) -> Shaped[Any, "..."]:
    """Norms, tables and biases: the layouts agree."""
    return leaf


def linear(leaf: Shaped[Any, "I O"]) -> Shaped[Any, "O I"]:
    """A linear map: PyTorch keeps outputs first."""
    return leaf.T


def to_heads(leaf: Shaped[Any, "D H K"]) -> Shaped[Any, "H*K D"]:
    """The kernel of a query, key or value projection."""
    return leaf.reshape(leaf.shape[0], -1).T


def head_bias(leaf: Shaped[Any, "H K"]) -> Shaped[Any, "H*K"]:
    """The bias of a query, key or value projection."""
    return leaf.reshape(-1)


def from_heads(leaf: Shaped[Any, "H K D"]) -> Shaped[Any, "D H*K"]:
    """The kernel of an attention's output projection."""
    return leaf.reshape(-1, leaf.shape[-1]).T


def stem(leaf: Shaped[Any, "kt p p C W"]) -> Shaped[Any, "W C kt p p"]:
    """The patch embedding, a 3D convolution."""
    return leaf.transpose(4, 3, 0, 1, 2)


def pointwise(leaf: Shaped[Any, "I O"]) -> Shaped[Any, "O I 1 1 1"]:
    """A 1x1x1 convolution, a linear map for us."""
    return leaf.T[:, :, None, None, None]


def depthwise(leaf: Shaped[Any, "k C"]) -> Shaped[Any, "C 1 k 1 1"]:
    """A convolution over time with one filter per channel."""
    return leaf.T[:, None, :, None, None]


def first_rows(count: int) -> View:
    """The rows of real words in a table padded with further ones."""

    def rows(leaf: Shaped[Any, "Vp ..."]) -> Shaped[Any, "V ..."]:
        return leaf[:count]

    return rows


def third(part: int, tensor: Shaped[Any, "3D ..."]) -> Shaped[Any, "D ..."]:
    """Query (0), key (1) or value (2) of CLIP's packed projection, as a view."""
    width = tensor.shape[0] // 3
    return tensor[part * width : (part + 1) * width]
