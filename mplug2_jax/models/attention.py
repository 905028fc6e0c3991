"""Multi-head attention: the module, its cached keys and values, and the kernels.

Rows of queries may outnumber rows of keys: several questions about one video, or
several beams of one sample, are consecutive rows and share its keys. And a memory may
have segments of different rows: a video's tokens, and each question's states. So
everything is projected and stored once.
"""

import functools
from collections.abc import Sequence

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mplug2_jax.models.config import Numerics
from mplug2_jax.models.layers import Initializer, dense

MASKED = -1e9
# Above this many scores per row and head (4097 x 4097 of 16 frames is 16.8 M) the
# queries are processed in blocks, and the backward pass recomputes each block.
BLOCKWISE_SCORES = 1 << 20
QUERY_BLOCK = 512


@flax.struct.dataclass
class KeyValue:
    """Projected keys and values of a memory, or a decoder layer's cache."""

    key: Float[Array, "B S H K"]
    value: Float[Array, "B S H K"]

    @property
    def length(self) -> int:
        return self.key.shape[1]


def attend(
    query: Float[Array, "R L H K"],
    memory: Sequence[KeyValue],
    mask: Bool[Array, "R L S"] | None = None,
    dropout: tuple[float, Array] | None = None,
) -> Float[Array, "R L H K"]:
    """Scaled dot-product attention with softmax in float32.

    Args:
      query: R rows.
      memory: segments of keys and values, one softmax over all; S is their joint
        length. Each segment's rows divide R: consecutive queries share a row.
      mask: True where a key may be seen, broadcastable to `R L S`. None sees all.
      dropout: rate and key for the attention weights; None outside training.
    """
    mask = None if mask is None else mask[:, None]  # R H L S
    shares_rows = len(memory) > 1 or memory[0].key.shape[0] < query.shape[0]
    if not shares_rows and dropout is None and _flash_serves(query, mask):
        keys, values = memory[0].key, memory[0].value
        return jax.nn.dot_product_attention(query, keys, values, implementation="cudnn")
    if not shares_rows and query.shape[1] * memory[0].key.shape[1] > BLOCKWISE_SCORES:
        return _blockwise(query, memory, mask, dropout)
    return _dense(query, memory, mask, dropout)


def _flash_serves(query, mask) -> bool:
    """Whether cuDNN's fused kernel takes this call.

    Masks exclude it: with one its backward pass refuses odd lengths, which ours are
    (257, 4097). The masked sequences are short texts.
    """
    width = query.shape[-1]
    fits = query.dtype.itemsize == 2 and width % 8 == 0 and width <= 128
    return fits and mask is None and jax.default_backend() == "gpu"


def _dense(query, memory, mask, dropout):
    rows, length, heads, width = query.shape
    query = query * width**-0.5

    def score(segment: KeyValue):
        folded = query.reshape(len(segment.key), -1, length, heads, width)
        scores = jnp.einsum(
            "bglhk,bshk->bghls",
            folded,
            segment.key,
            preferred_element_type=jnp.float32,
        )
        return scores.reshape(rows, heads, length, -1)

    scores = [score(segment) for segment in memory]
    scores = scores[0] if len(scores) == 1 else jnp.concatenate(scores, axis=-1)
    if mask is not None:
        scores = jnp.where(mask, scores, MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(query.dtype)
    if dropout is not None:
        rate, key = dropout
        kept = jax.random.bernoulli(key, 1 - rate, weights.shape)
        weights = jnp.where(kept, weights / (1 - rate), 0).astype(query.dtype)

    def read(segment: KeyValue, weights):
        folded = weights.reshape(len(segment.value), -1, heads, length, segment.length)
        out = jnp.einsum("bghls,bshk->bglhk", folded, segment.value)
        return out.reshape(rows, length, heads, width)

    bounds = np.cumsum([segment.length for segment in memory])[:-1]
    parts = jnp.split(weights, bounds, axis=-1)
    return functools.reduce(jnp.add, map(read, memory, parts))


def _blockwise(query, memory, mask, dropout):
    """`_dense` over blocks of queries; never holds an L x S matrix."""
    batch, length, heads, width = query.shape
    blocks = -(-length // QUERY_BLOCK)
    padding = ((0, 0), (0, blocks * QUERY_BLOCK - length), (0, 0), (0, 0))
    query = jnp.pad(query, padding).reshape(batch, blocks, QUERY_BLOCK, heads, width)
    if mask is not None and mask.shape[2] > 1:  # a row of its own for each query
        mask = jnp.pad(mask, ((0, 0), (0, 0), padding[1], (0, 0)))
        mask = mask.reshape(*mask.shape[:2], blocks, QUERY_BLOCK, -1)
        masks = jnp.moveaxis(mask, 2, 0)
    else:
        masks = None

    @jax.checkpoint
    def block(inputs):
        index, query, own = inputs
        noise = dropout and (dropout[0], jax.random.fold_in(dropout[1], index))
        return _dense(query, memory, mask if own is None else own, noise)

    out = jax.lax.map(block, (jnp.arange(blocks), jnp.moveaxis(query, 1, 0), masks))
    out = jnp.moveaxis(out, 0, 1).reshape(batch, -1, heads, width)
    return out[:, :length]


class Attention(nn.Module):
    """Multi-head attention of a sequence over a memory, or over itself.

    Attributes:
      num_heads: H; the width must divide by it.
      kernel_init: initialiser of the four projections.
      dropout: rate on the attention weights.
    """

    num_heads: int
    kernel_init: Initializer
    dropout: float
    numerics: Numerics
    width: int

    def setup(self):
        heads = (self.num_heads, self.width // self.num_heads)
        axes = ("embed", "heads", "head_dim")
        self.query = dense(heads, axes, self.kernel_init, self.numerics)
        self.key = dense(heads, axes, self.kernel_init, self.numerics)
        self.value = dense(heads, axes, self.kernel_init, self.numerics)
        self.out = dense(
            self.width,
            ("heads", "head_dim", "embed"),
            self.kernel_init,
            self.numerics,
            axis=(-2, -1),
        )

    def project(self, memory: Float[Array, "B S D"]) -> KeyValue:
        """Keys and values of a memory; do it once, attend often."""
        return KeyValue(self.key(memory), self.value(memory))

    def __call__(
        self,
        x: Float[Array, "R L D"],
        memory: Sequence[KeyValue] | None = None,
        mask: Bool[Array, "R L S"] | None = None,
    ) -> Float[Array, "R L D"]:
        """Attends from `x` to `memory`, by default `x` itself (see `attend`)."""
        memory = (self.project(x),) if memory is None else memory
        dropout = None
        if self.dropout > 0 and self.has_rng("dropout"):
            dropout = (self.dropout, self.make_rng("dropout"))
        return self.out(attend(self.query(x), memory, mask, dropout))
