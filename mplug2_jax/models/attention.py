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
# More scores than a CPU's cache holds cost it more than the products around them.
CPU_SCORES = 1 << 22


@flax.struct.dataclass
class KeyValue:
    """Projected keys and values of a memory, or a decoder layer's cache.

    Heads come before the sequence: as the products want them, at every step anew.
    """

    key: Float[Array, "B H S K"]
    value: Float[Array, "B H S K"]

    @property
    def length(self) -> int:
        return self.key.shape[-2]


def attend(
    query: Float[Array, "R H L K"],
    memory: Sequence[KeyValue],
    mask: Bool[Array, "R L S"] | None = None,
    dropout: tuple[float, Array] | None = None,
) -> Float[Array, "R H L K"]:
    """Scaled dot-product attention with softmax in float32.

    Args:
      query: R rows.
      memory: segments of keys and values, one softmax over all; S is their joint
        length. Each segment's rows divide R: consecutive queries share a row.
      mask: True where a key may be seen, broadcastable to `R L S`. None sees all.
      dropout: rate and key for the attention weights; None outside training. In long
        attentions a row's queries share each head's draw.
    """
    mask = None if mask is None else mask[:, None]  # R H L S
    if len(memory) > 1 or len(memory[0].key) < len(query):
        return _dense(query, memory, mask, dropout)
    rows, heads, length, _ = query.shape
    scores = length * memory[0].length
    if dropout is not None and scores > BLOCKWISE_SCORES:
        memory, dropout = (_drop_keys(memory[0], *dropout),), None
    if dropout is None and _flash_serves(query, mask):
        return _flash(query, memory[0])
    if rows * heads * scores > CPU_SCORES and _alone_on_cpu():
        return _row_by_row(query, memory, mask, dropout)
    if scores > BLOCKWISE_SCORES:
        return _blockwise(query, memory, mask, dropout, QUERY_BLOCK)
    return _dense(query, memory, mask, dropout)


def _flash_serves(query, mask) -> bool:
    """Whether cuDNN's fused kernel takes this call.

    Masks exclude it: the masked sequences are short texts.
    """
    width = query.shape[-1]
    fits = query.dtype.itemsize == 2 and width % 8 == 0 and width <= 128
    return fits and mask is None and _platform() == "gpu"


def _flash(query, memory: KeyValue):
    """cuDNN's kernel. JAX refuses its backward pass odd lengths, so they are padded.

    (Only a bias would forbid them, but jax 0.10 and 0.11 take an empty one for it.)
    """
    rows, _, length, _ = query.shape

    def even(x):
        odd = ((0, 0), (0, x.shape[2] % 2), (0, 0), (0, 0))
        return jnp.pad(jnp.swapaxes(x, 1, 2), odd)

    def lengths(x):  # with the rows, and so divided over a mesh as they are
        return nn.with_logical_constraint(jnp.full(rows, x, jnp.int32), ("batch",))

    query, key, value = map(even, (query, memory.key, memory.value))
    limits = {}
    if memory.length % 2:
        limits["query_seq_lengths"] = lengths(query.shape[1])
        limits["key_value_seq_lengths"] = lengths(memory.length)
    out = jax.nn.dot_product_attention(
        query, key, value, implementation="cudnn", **limits
    )
    return jnp.swapaxes(out[:, :length], 1, 2)


def _drop_keys(memory: KeyValue, rate: float, key) -> KeyValue:
    """Attention's dropout, on the values: one draw for all queries of a row and head.

    The weights are those of no dropout, so kernels that never hold them serve, and
    there are L times fewer numbers to draw.
    """
    kept = jax.random.bernoulli(key, 1 - rate, (*memory.value.shape[:-1], 1))
    value = jnp.where(kept, memory.value / (1 - rate), 0).astype(memory.value.dtype)
    return KeyValue(memory.key, value)


def _alone_on_cpu() -> bool:
    """On one device: a loop over rows cannot be divided over several."""
    mesh = jax.sharding.get_abstract_mesh()
    return (mesh.empty or mesh.size == 1) and _platform() == "cpu"


def _platform() -> str:
    """Of the devices that the program is for, which need not be this machine's."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


def _dense(query, memory, mask, dropout):
    query = query * query.shape[-1] ** -0.5

    def score(segment: KeyValue):
        folded = _fold(query, len(segment.key))
        scores = jnp.einsum(
            "bhmk,bhsk->bhms", folded, segment.key, preferred_element_type=jnp.float32
        )
        return _unfold(scores, query)

    scores = [score(segment) for segment in memory]
    scores = scores[0] if len(scores) == 1 else jnp.concatenate(scores, axis=-1)
    if mask is not None:
        scores = jnp.where(mask, scores, MASKED)
    # Softmax, but divided by its sum after the values are read: one pass less over the
    # scores, which are the largest array here.
    scores = scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True))
    weights = jnp.exp(scores)
    total = weights.sum(axis=-1, keepdims=True)
    weights = weights.astype(query.dtype)
    if dropout is not None:
        rate, key = dropout
        kept = jax.random.bernoulli(key, 1 - rate, weights.shape)
        weights = jnp.where(kept, weights / (1 - rate), 0).astype(query.dtype)

    def read(segment: KeyValue, weights):
        folded = _fold(weights, len(segment.value))
        return _unfold(jnp.einsum("bhms,bhsk->bhmk", folded, segment.value), query)

    bounds = np.cumsum([segment.length for segment in memory])[:-1]
    parts = jnp.split(weights, bounds, axis=-1)
    out = functools.reduce(jnp.add, map(read, memory, parts))
    return (out / total).astype(query.dtype)


def _fold(x, rows: int):
    """`R H L X` to `rows H M X`: rows that share a memory's row become its queries."""
    if rows == len(x):
        return x
    _, heads, length, last = x.shape
    x = jnp.swapaxes(x.reshape(rows, -1, heads, length, last), 1, 2)
    return x.reshape(rows, heads, -1, last)


def _unfold(x, query):
    """Back to `R H L X`, the rows and lengths of `query`."""
    rows, heads, length, _ = query.shape
    if rows == len(x):
        return x
    x = x.reshape(len(x), heads, -1, length, x.shape[-1])
    return jnp.swapaxes(x, 1, 2).reshape(rows, heads, length, -1)


def _row_by_row(query, memory, mask, dropout):
    """One row after the other, each in blocks of queries that fit a CPU's cache."""
    rows, heads, length, _ = query.shape
    size = min(length, max(16, CPU_SCORES // (heads * memory[0].length)))
    if mask is not None:
        mask = jnp.broadcast_to(mask, (rows, *mask.shape[1:]))

    def row(inputs):
        index, *arrays = inputs
        query, memory, mask = jax.tree.map(lambda a: a[None], arrays)
        noise = dropout and (dropout[0], jax.random.fold_in(dropout[1], index))
        if size < length:
            return _blockwise(query, memory, mask, noise, size)[0]
        return _dense(query, memory, mask, noise)[0]

    return jax.lax.map(row, (jnp.arange(rows), query, memory, mask))


def _blockwise(query, memory, mask, dropout, size):
    """`_dense` over blocks of `size` queries; never holds an L x S matrix."""
    batch, heads, length, width = query.shape
    blocks = -(-length // size)
    padding = ((0, 0), (0, 0), (0, blocks * size - length), (0, 0))
    query = jnp.pad(query, padding).reshape(batch, heads, blocks, size, width)
    masks = None
    if mask is not None and mask.shape[2] > 1:  # a row of its own for each query
        own = jnp.pad(mask, padding).reshape(*mask.shape[:2], blocks, size, -1)
        masks = jnp.moveaxis(own, 2, 0)

    @jax.checkpoint
    def block(inputs):
        index, query, own = inputs
        noise = dropout and (dropout[0], jax.random.fold_in(dropout[1], index))
        return _dense(query, memory, mask if own is None else own, noise)

    out = jax.lax.map(block, (jnp.arange(blocks), jnp.moveaxis(query, 2, 0), masks))
    out = jnp.moveaxis(out, 0, 2).reshape(batch, heads, -1, width)
    return out[:, :, :length]


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
        return KeyValue(_heads(self.key(memory)), _heads(self.value(memory)))

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
        return self.out(_heads(attend(_heads(self.query(x)), memory, mask, dropout)))


def _heads(x: Float[Array, "B L H K"]) -> Float[Array, "B H L K"]:
    """Heads before the sequence, or back again."""
    return jnp.swapaxes(x, 1, 2)
