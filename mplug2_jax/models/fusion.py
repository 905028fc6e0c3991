"""Fusion layers (paper section 3.3): text that reads the video.

With connected layers (upstream's `stride_layer`) vision and text also attend to each
other as one joined sequence, and the visual tokens change too.
"""

import flax.linen as nn
import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mplug2_jax.models.config import FusionConfig, Numerics, TextConfig
from mplug2_jax.models.layers import rematerialized
from mplug2_jax.models.masks import padding_mask
from mplug2_jax.models.text import TextLayer


@flax.struct.dataclass
class Fused:
    """Vision (one row per video, or per text with connected layers) and text."""

    vision: Float[Array, "B N D"]
    text: Float[Array, "R L D"]


class FusionLayers(nn.Module):
    """R texts, R / B consecutive ones per video, fused with the B videos."""

    config: FusionConfig
    text: TextConfig
    numerics: Numerics

    def setup(self):
        self.layers = [
            rematerialized(TextLayer, self.numerics)(
                self.text, self.numerics, name=f"layer_{i}"
            )
            for i in range(self.config.num_layers)
        ]

    def __call__(
        self,
        vision: Float[Array, "B N D"],
        text: Float[Array, "R L D"],
        mask: Int[Array, "R L"],
    ) -> Fused:
        visible = padding_mask(mask)
        if any(map(self.config.is_connected, range(self.config.num_layers))):
            vision = jnp.repeat(vision, text.shape[0] // vision.shape[0], axis=0)
        for i, layer in enumerate(self.layers):
            if self.config.is_connected(i):
                vision, text = self._connect(layer, vision, text, visible)
            else:
                text = layer(text, visible, vision)
        return Fused(vision, text)

    def _connect(self, layer: nn.Module, vision, text, visible: Bool[Array, "R 1 L"]):
        tokens = vision.shape[1]
        joined = jnp.concatenate([vision, text], axis=1)
        everything = jnp.pad(visible, ((0, 0), (0, 0), (tokens, 0)), constant_values=1)
        joined = layer(joined, everything)
        return vision + joined[:, :tokens], joined[:, tokens:]
