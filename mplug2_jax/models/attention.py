"""Multi-head attention: the module, its cached keys and values, and the kernels.

Rows of queries may outnumber rows of keys: several questions about one video, or
several beams of one sample, are consecutive rows and share its keys. They are folded
onto one row of queries, so that a memory is projected and stored once.
"""

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
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


def attend(
    query: Float[Array, "R L H K"],
    memory: KeyValue,
    mask: Bool[Array, "B L S"] | None = None,
    dropout: tuple[float, Array] | None = None,
) -> Float[Array, "R L H K"]:
    """Scaled dot-product attention with softmax in float32.

    Args:
      query: R = B * G rows; each group of G consecutive rows shares one row of keys.
      memory: keys and values of B rows.
      mask: True where a key may be seen, broadcastable to `B L S`, for R > B to
        `B 1 S`. None sees all.
      dropout: rate and key for the attention weights; None outside training.
    """
    rows, length, heads, width = query.shape
    keys = memory.key.shape[:2]
    query = query.reshape(keys[0], -1, heads, width)
    mask = None if mask is None else mask[:, None]  # B H L S
    if dropout is None and _flash_serves(query, mask):
        out = jax.nn.dot_product_attention(
            query, memory.key, memory.value, mask=mask, implementation="cudnn"
        )
    elif query.shape[1] * keys[1] > BLOCKWISE_SCORES:
        out = _blockwise(query, memory, mask, dropout)
    else:
        out = _dense(query, memory, mask, dropout)
    return out.reshape(rows, length, heads, width)


def _flash_serves(query, mask) -> bool:
    """Whether cuDNN's fused kernel takes this call: a GPU, 16 bits, no big mask."""
    on_gpu = jax.default_backend() == "gpu"
    return on_gpu and query.dtype.itemsize == 2 and query.shape[1] > 1


def _dense(query, memory, mask, dropout):
    scale = query.shape[-1] ** -0.5
    scores = jnp.einsum(
        "blhk,bshk->bhls",
        query * scale,
        memory.key,
        preferred_element_type=jnp.float32,
    )
    if mask is not None:
        scores = jnp.where(mask, scores, MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(query.dtype)
    if dropout is not None:
        rate, key = dropout
        kept = jax.random.bernoulli(key, 1 - rate, weights.shape)
        weights = jnp.where(kept, weights / (1 - rate), 0).astype(query.dtype)
    return jnp.einsum("bhls,bshk->blhk", weights, memory.value)


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
        memory: KeyValue | None = None,
        mask: Bool[Array, "B L S"] | None = None,
    ) -> Float[Array, "R L D"]:
        """Attends from `x` to `memory`, by default `x` itself (see `attend`)."""
        memory = self.project(x) if memory is None else memory
        dropout = None
        if self.dropout > 0 and self.has_rng("dropout"):
            dropout = (self.dropout, self.make_rng("dropout"))
        return self.out(attend(self.query(x), memory, mask, dropout))
