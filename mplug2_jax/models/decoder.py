"""Text decoder (paper section 3.4): causal BERT with cross-attention and LM head.

Two ways to run: `__call__` scores a whole text at once (training, ranking); `start`
projects the memory once and `step` then adds one token per row with a cache.
"""

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
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
    """Projected memory of every layer; stays the same through a generation."""

    memory: tuple[KeyValue, ...]  # per segment: layers B H N K
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
        x = dense(config.width, ("embed", "mlp"), init, numerics, name="dense")(x)
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
        return DecoderState(projected, padding_mask(memory.mask))

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
        # Unrolled: inside a generation's loop each layer's slice of the stacked weights
        # is then cut once, where a scan would copy all weights at every step.
        layer = DecoderLayer(self.text, self.numerics, parent=None)
        stacked = (self.layers.variables["params"], cache, state.memory)
        caches = []
        for depth in range(self.config.num_layers):
            params, own, memory = jax.tree.map(lambda a, i=depth: a[i], stacked)
            x, own = layer.apply(
                {"params": params}, x, (own, memory), shared, method="step"
            )
            caches.append(own)
        cache = jax.tree.map(lambda *layers: jnp.stack(layers), *caches)
        return self.head(x, self.embeddings)[:, 0], cache


def empty_cache(
    decoder: DecoderConfig, text: TextConfig, numerics: Numerics, rows: int, length: int
) -> KeyValue:
    """Zeros `layers R H S K` for `rows` sequences of at most `length` tokens."""
    width = text.width // text.num_heads
    shape = (decoder.num_layers, rows, text.num_heads, length, width)
    zeros = jnp.zeros(shape, numerics.compute)
    return KeyValue(zeros, zeros)
