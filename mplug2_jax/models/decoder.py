"""Text decoder (paper section 3.4): causal BERT with cross-attention and LM head.

Two ways to run: `__call__` scores a whole text at once (training, ranking); `start`
projects the memory once and `step` then adds one token per row with a cache.
"""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mplug2_jax.models.attention import KeyValue
from mplug2_jax.models.config import DecoderConfig, Numerics, TextConfig
from mplug2_jax.models.layers import (
    TextEmbeddings,
    dense,
    gelu,
    layer_norm,
    named,
    scan_layers,
)
from mplug2_jax.models.masks import causal_mask, padding_mask, step_mask
from mplug2_jax.models.text import TextLayer


@flax.struct.dataclass
class Memory:
    """What the decoder reads: segments joined along the sequence.

    Segments may differ in rows (a video's tokens, its Q questions' states), each is
    projected once. `mask` covers the join and has the rows of the longest.
    """

    segments: tuple[Float[Array, "B N D"], ...]
    mask: Int[Array, "R S"]

    @classmethod
    def of(
        cls,
        vision: Float[Array, "B N D"],
        text: Float[Array, "R L D"] | None = None,
        text_mask: Int[Array, "R L"] | None = None,
    ) -> "Memory":
        """Vision alone (captioning), or vision and fused question (QA)."""
        rows = vision.shape[0] if text is None else text.shape[0]
        mask = jnp.ones((rows, vision.shape[1]), jnp.int32)
        if text is None or text_mask is None:
            return cls((vision,), mask)
        joined = jnp.concatenate([mask, text_mask.astype(jnp.int32)], axis=1)
        return cls((vision, text), joined)


@flax.struct.dataclass
class DecoderState:
    """What stays the same through a generation, cut into layers ahead of its loop.

    Attributes:
      layers: for each its parameters, and its projected memory per segment (B H N K).
    """

    layers: tuple[tuple[Any, tuple[KeyValue, ...]], ...]
    mask: Bool[Array, "R 1 S"]


class DecoderLayer(TextLayer):
    """`TextLayer` over a memory, in the form `scan_layers` wants."""

    def __call__(self, x, scanned, shared):
        """Whole texts; `shared` is (causal mask, Memory)."""
        mask, memory = shared
        x = self.self_attend(x, mask)
        visible = _for_rows(padding_mask(memory.mask), len(x))
        x = self.cross_attend(x, self._project(memory), visible)
        return self.feed_forward(x), scanned

    def project_memory(self, carry, scanned, memory: Memory):
        return carry, self._project(memory)

    def _project(self, memory: Memory) -> tuple[KeyValue, ...]:
        return tuple(self.cross_attention.project(part) for part in memory.segments)

    def step(self, x, scanned, shared):
        """One token per row; `scanned` is (cache, projected memory) of this layer."""
        (cache, memory), (mask, memory_mask, position) = scanned, shared
        cache = jax.tree.map(
            lambda old, new: jax.lax.dynamic_update_slice_in_dim(
                old, new.astype(old.dtype), position, axis=2
            ),
            cache,
            self.attention.project(x),
        )
        x = self.self_attend(x, mask, cache)
        memory_mask = _for_rows(memory_mask, len(x))
        return self.feed_forward(self.cross_attend(x, memory, memory_mask)), cache


def _for_rows(mask: Bool[Array, "B 1 S"], rows: int) -> Bool[Array, "R 1 S"]:
    """The mask of each row's sample; consecutive rows belong to one sample."""
    return jnp.repeat(mask, rows // len(mask), axis=0)


class LMHead(nn.Module):
    """dense -> GELU -> norm; the output matrix is the word table, plus a bias."""

    config: TextConfig
    numerics: Numerics

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"], embeddings: TextEmbeddings):
        config, numerics = self.config, self.numerics
        init = nn.initializers.normal(config.init_std)
        # Not cut: the vocabulary is, over the same devices. Both together would cost
        # sums over them here, and a wrong gradient: where `data` > 1 and `fsdp` and
        # `tensor` are alike, XLA (jaxlib 0.10.2) exchanges the rows of the scores'.
        x = dense(config.width, ("embed", None), init, numerics, name="dense")(x)
        x = layer_norm(config.layer_norm_eps, numerics, name="norm")(gelu(x))
        bias = self.param(
            "bias",
            named(nn.initializers.zeros, "vocab"),
            (config.padded_vocab_size,),
            numerics.params,
        )
        return embeddings.logits(x, bias)


class TextDecoder(nn.Module):
    config: DecoderConfig
    text: TextConfig
    numerics: Numerics

    def setup(self):
        self.embeddings = TextEmbeddings(self.text, self.numerics)
        methods = ("__call__", "project_memory")
        layers = scan_layers(
            DecoderLayer, self.config.num_layers, self.numerics, methods
        )
        self.layers = layers(self.text, self.numerics)
        self.head = LMHead(self.text, self.numerics)

    def __call__(
        self, ids: Int[Array, "R L"], mask: Int[Array, "R L"], memory: Memory
    ) -> Float[Array, "R L V"]:
        """Next-token logits, float32, of whole texts (V padded to 128s)."""
        x = self.embeddings(ids)
        x, _ = self.layers(x, None, (causal_mask(mask), memory))
        return self.head(x, self.embeddings)

    def start(self, memory: Memory) -> DecoderState:
        """Projects the memory for every layer, once per sample."""
        _, projected = self.layers.project_memory(0.0, None, memory)
        projected, mask = _aligned(projected, padding_mask(memory.mask))
        stacked = (self.layers.variables["params"], projected)
        depths = range(self.config.num_layers)
        layers = [jax.tree.map(lambda a, i=i: a[i], stacked) for i in depths]
        return DecoderState(tuple(layers), mask)

    def step(
        self,
        ids: Int[Array, "R"],
        position: Int[Array, ""],
        cache: KeyValue,
        state: DecoderState,
    ) -> tuple[Float[Array, "R V"], KeyValue]:
        """Next-token logits of the token at `position`, and the cache with it.

        Args:
          ids: one token per row; consecutive rows (beams) share a sample's memory.
          cache: self-attention keys and values, `layers R H S K` (`empty_cache`).
        """
        x = self.embeddings(ids[:, None], position)
        shared = (step_mask(position, cache.length), state.mask, position)
        # Unrolled: a scan would cut the stacked weights anew at every step.
        layer = DecoderLayer(self.text, self.numerics, parent=None)
        caches = []
        for depth, (params, memory) in enumerate(state.layers):
            own = jax.tree.map(lambda a, i=depth: a[i], cache)
            x, own = layer.apply(
                {"params": params}, x, (own, memory), shared, method="step"
            )
            caches.append(own)
        cache = jax.tree.map(lambda *layers: jnp.stack(layers), *caches)
        return self.head(x, self.embeddings)[:, 0], cache


def _aligned(memory: tuple[KeyValue, ...], mask: Bool[Array, "R 1 S"]):
    """The segments in multiples of 8 keys, the mask alike, if they have 16 bits.

    A GPU's 16-bit products want that, and would pad them at every step.
    """
    if memory[0].key.dtype.itemsize != 2:
        return memory, mask
    more = [-segment.length % 8 for segment in memory]
    padded = [
        jax.tree.map(
            lambda a, n=n: jnp.pad(a, [(0, 0)] * 3 + [(0, n), (0, 0)]), segment
        )
        for segment, n in zip(memory, more, strict=True)
    ]
    bounds = np.cumsum([segment.length for segment in memory])[:-1]
    parts = zip(jnp.split(mask, bounds, axis=-1), more, strict=True)
    masks = [jnp.pad(part, ((0, 0), (0, 0), (0, n))) for part, n in parts]
    return tuple(padded), jnp.concatenate(masks, axis=-1)


def empty_cache(
    decoder: DecoderConfig, text: TextConfig, numerics: Numerics, rows: int, length: int
) -> KeyValue:
    """Zeros `layers R H S K` for `rows` sequences of at most `length` tokens."""
    width = text.width // text.num_heads
    shape = (decoder.num_layers, rows, text.num_heads, length, width)
    zeros = jnp.zeros(shape, numerics.compute)
    return KeyValue(zeros, zeros)
