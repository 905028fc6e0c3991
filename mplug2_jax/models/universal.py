"""Universal layers (paper section 3.2): weights that vision and text share.

Vision: latents gather from the visual tokens in every layer but the last, where the
roles are swapped and the visual tokens (all N of them, in full self-attention) read
the latents back. Text: the layers are the text encoder's last ones.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mplug2_jax.models.config import Numerics, TextConfig, UniversalConfig
from mplug2_jax.models.layers import Dropout, layer_norm, named, rematerialized
from mplug2_jax.models.masks import padding_mask
from mplug2_jax.models.text import TextLayer


class UniversalLayers(nn.Module):
    """`pool_vision` and `encode_text` over one stack of layers.

    Attributes:
      has_vision: without it the latents and the vision norm do not exist.
    """

    config: UniversalConfig
    text: TextConfig
    has_vision: bool
    numerics: Numerics

    def setup(self):
        config, text = self.config, self.text
        self.layers = [
            rematerialized(TextLayer, self.numerics)(
                text, self.numerics, name=f"layer_{i}"
            )
            for i in range(config.num_layers)
        ]
        if self.has_vision and self.layers:
            self.latents = self.param(
                "latents",
                named(nn.initializers.normal(1.0), None, "embed"),
                (config.num_latents, text.width),
                self.numerics.params,
            )
            self.vision_norm = layer_norm(text.layer_norm_eps, self.numerics)
            self.dropout = Dropout(text.dropout)

    def pool_vision(
        self, tokens: Float[Array, "B N D"]
    ) -> tuple[Float[Array, "B N D"], Float[Array, "B N D"]]:
        """Returns (last layer's output, visual embeddings = norm(tokens + output)).

        Without layers both are the tokens as they came.
        """
        if not self.layers:
            return tokens, tokens
        latents = self.latents.astype(tokens.dtype)
        hidden = jnp.broadcast_to(latents, (tokens.shape[0], *latents.shape))
        for layer in self.layers[:-1]:
            hidden = layer(hidden, None, tokens)
        output = self.layers[-1](tokens, None, hidden)
        return output, self.dropout(self.vision_norm(tokens + output))

    def encode_text(
        self, x: Float[Array, "B L D"], mask: Int[Array, "B L"]
    ) -> Float[Array, "B L D"]:
        """The text encoder's last layers: no cross-attention."""
        for layer in self.layers:
            x = layer(x, padding_mask(mask))
        return x
