"""Text encoder (paper section 3.1) and the BERT layer that all text blocks share."""

from collections.abc import Sequence

import flax.linen as nn
from jaxtyping import Array, Bool, Float, Int

from mplug2_jax.models.attention import Attention, KeyValue
from mplug2_jax.models.config import Numerics, TextConfig
from mplug2_jax.models.layers import (
    Dropout,
    Mlp,
    TextEmbeddings,
    constrain,
    gelu,
    layer_norm,
    scan_layers,
)
from mplug2_jax.models.masks import padding_mask


class TextLayer(nn.Module):
    """Self-attention, optional cross-attention, MLP; a post-norm residual each.

    Cross-attention owns parameters only in models that use it.
    """

    config: TextConfig
    numerics: Numerics

    def setup(self):
        config, numerics = self.config, self.numerics
        init = nn.initializers.normal(config.init_std)
        attention = (config.num_heads, init, config.attention_dropout, numerics)
        self.attention = Attention(*attention, config.width)
        self.attention_norm = layer_norm(config.layer_norm_eps, numerics)
        self.cross_attention = Attention(*attention, config.width)
        self.cross_attention_norm = layer_norm(config.layer_norm_eps, numerics)
        self.mlp = Mlp(config.mlp_dim, gelu, init, numerics)
        self.mlp_norm = layer_norm(config.layer_norm_eps, numerics)
        self.dropout = Dropout(config.dropout)

    def __call__(
        self,
        x: Float[Array, "R L D"],
        mask: Bool[Array, "R L S"] | None = None,
        memory: Float[Array, "B N D"] | None = None,
    ) -> Float[Array, "R L D"]:
        """One layer; with a `memory`, R / B consecutive rows read each of its rows."""
        x = self.self_attend(x, mask)
        if memory is not None:
            x = self.cross_attend(x, (self.cross_attention.project(memory),))
        return self.feed_forward(x)

    def self_attend(
        self,
        x: Float[Array, "B L D"],
        mask: Bool[Array, "B L S"] | None = None,
        cache: KeyValue | None = None,
    ) -> Float[Array, "B L D"]:
        """Residual self-attention; a `cache` replaces the sequence's own keys."""
        memory = None if cache is None else (cache,)
        return self.attention_norm(x + self.dropout(self.attention(x, memory, mask)))

    def cross_attend(
        self,
        x: Float[Array, "R L D"],
        memory: Sequence[KeyValue],
        mask: Bool[Array, "R 1 S"] | None = None,
    ) -> Float[Array, "R L D"]:
        """Residual cross-attention to a projected memory, which may have segments."""
        branch = self.cross_attention(x, memory, mask)
        return self.cross_attention_norm(x + self.dropout(branch))

    def feed_forward(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        return constrain(self.mlp_norm(x + self.dropout(self.mlp(x))))


class DeepTextLayer(TextLayer):
    """`TextLayer` without cross-attention, in the form `scan_layers` wants."""

    def __call__(self, x, scanned, mask):
        return super().__call__(x, mask), scanned


class TextEncoder(nn.Module):
    """BERT's embeddings and all its layers but the universal ones."""

    config: TextConfig
    num_layers: int
    numerics: Numerics

    def setup(self):
        self.embeddings = TextEmbeddings(self.config, self.numerics)
        if self.num_layers > 0:
            layers = scan_layers(DeepTextLayer, self.num_layers, self.numerics)
            self.layers = layers(self.config, self.numerics)

    def __call__(
        self, ids: Int[Array, "B L"], mask: Int[Array, "B L"]
    ) -> Float[Array, "B L D"]:
        x = self.embeddings(ids)
        return self.layers(x, None, padding_mask(mask))[0] if self.num_layers else x
