"""Dual-vision encoder (paper section 3.1): one ViT for images and videos.

Each block runs spatial attention within every frame; for videos a local temporal
module before and after it mixes each patch with its neighbours in time. Upstream has
two such modules per block (the paper draws one) and there is no temporal position
embedding: order in time is known to these modules alone.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from mplug2_jax.models.attention import Attention
from mplug2_jax.models.config import Numerics, VisionConfig
from mplug2_jax.models.layers import (
    DropPath,
    Mlp,
    constrain,
    dense,
    gathered,
    layer_norm,
    named,
    quick_gelu,
    scan_layers,
)

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
MODULES_PER_BLOCK = {
    "none": 0,
    "first": 1,
    "both": 2,
}  # local temporal modules of a block


def normalize_frames(
    frames: UInt8[Array, "B T H W 3"] | Float[Array, "B T H W 3"], dtype
) -> Float[Array, "B T H W 3"]:
    """CLIP's normalisation of uint8 frames; float frames pass as they are."""
    if jnp.issubdtype(frames.dtype, jnp.integer):
        mean, std = jnp.array(CLIP_MEAN), jnp.array(CLIP_STD)
        frames = (frames.astype(jnp.float32) / 255 - mean) / std
    return frames.astype(dtype)


class PatchEmbedding(nn.Module):
    """Cuts frames into patches and projects them; may merge frames in time."""

    config: VisionConfig
    numerics: Numerics

    @nn.compact
    def __call__(self, frames: Float[Array, "B T H W 3"]) -> Float[Array, "B T P D"]:
        config, p = self.config, self.config.patch_size
        taps = 3 if config.temporal_downsampling else 1
        axes = (None, None, None, None, "embed")
        kernel = self.param(
            "kernel",
            named(config.kernel_init, *axes),
            (taps, p, p, 3, config.width),
            self.numerics.params,
        )
        kernel = gathered(kernel.astype(self.numerics.compute), axes)
        batch, time, height, width, _ = frames.shape
        frames = frames.reshape(batch, time, height // p, p, width // p, p, 3)
        patches = jnp.einsum("btiyjxc->btijyxc", frames)
        patches = patches.reshape(batch, time, -1, p * p * 3)
        flat = kernel.reshape(taps, p * p * 3, config.width)
        if taps == 1:
            return patches @ flat[0]
        # A convolution over time with padding 1: three products of shifted frames.
        stride = config.temporal_stride
        padded = jnp.pad(patches, ((0, 0), (1, 1), (0, 0), (0, 0)))
        taken = jnp.stack([padded[:, k : k + time : stride] for k in range(taps)])
        return jnp.einsum("kbtpc,kcd->btpd", taken, flat)


class LocalTemporal(nn.Module):
    """Bottleneck with a depthwise convolution over time at each patch's place."""

    config: VisionConfig
    numerics: Numerics

    @nn.compact
    def __call__(self, x: Float[Array, "B T P D"]) -> Float[Array, "B T P D"]:
        config, numerics = self.config, self.numerics
        half = config.width // 2
        x = layer_norm(config.layer_norm_eps, numerics, name="norm")(x)
        x = dense(half, ("embed", "mlp"), config.kernel_init, numerics, name="down")(x)
        x = quick_gelu(DepthwiseTime(numerics, name="conv")(x))
        zeros = config.local_temporal_init == "zeros"
        init = nn.initializers.zeros if zeros else config.kernel_init
        return dense(config.width, ("mlp", "embed"), init, numerics, name="up")(x)


class DepthwiseTime(nn.Module):
    """Convolution over time, kernel 3, zero padding, one filter per channel."""

    numerics: Numerics

    @nn.compact
    def __call__(self, x: Float[Array, "B T P D"]) -> Float[Array, "B T P D"]:
        time, width = x.shape[1], x.shape[-1]
        kernel_init = named(nn.initializers.normal(3**-0.5), None, "mlp")
        kernel = self.param("kernel", kernel_init, (3, width), self.numerics.params)
        bias = self.param(
            "bias", named(nn.initializers.zeros, "mlp"), (width,), self.numerics.params
        )
        kernel, bias = (a.astype(x.dtype) for a in (kernel, bias))
        padded = jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0)))
        return bias + sum(padded[:, k : k + time] * kernel[k] for k in range(3))


class VisionBlock(nn.Module):
    """Local temporal, spatial attention, local temporal, MLP; pre-norm residuals.

    In the form `scan_layers` wants; `drop_path` is this depth's rate. Without
    `local_temporal` (images) its parameters may exist, unread.
    """

    config: VisionConfig
    local_temporal: bool
    numerics: Numerics

    @nn.compact
    def __call__(self, x: Float[Array, "B T M D"], drop_path, shared=None):
        config, numerics = self.config, self.numerics
        batch, time, tokens, width = x.shape

        def temporal(x, number):  # patches only; class tokens of frames stay apart
            if (
                not self.local_temporal
                or number > MODULES_PER_BLOCK[config.local_temporal]
            ):
                return x
            name = f"local_temporal_{number}"
            branch = LocalTemporal(config, numerics, name=name)(x[:, :, 1:])
            branch = DropPath()(branch, drop_path)
            return x + jnp.pad(branch, ((0, 0), (0, 0), (1, 0), (0, 0)))

        x = temporal(x, 1)
        frames = x.reshape(batch * time, tokens, width)
        branch = layer_norm(config.layer_norm_eps, numerics, name="attention_norm")
        branch = Attention(
            config.num_heads, config.kernel_init, 0.0, numerics, width, name="attention"
        )(branch(frames))
        branch = branch.reshape(x.shape)
        x = x + DropPath()(branch, drop_path)
        x = temporal(x, 2)
        branch = layer_norm(config.layer_norm_eps, numerics, name="mlp_norm")(x)
        branch = Mlp(
            config.mlp_dim, quick_gelu, config.kernel_init, numerics, name="mlp"
        )(branch)
        x = x + DropPath()(branch, drop_path)
        return constrain(x), None


class VisionEncoder(nn.Module):
    """Frames to visual tokens: the mean class token, then all patches in order."""

    config: VisionConfig
    local_temporal: bool
    numerics: Numerics

    @nn.compact
    def __call__(
        self, frames: Float[Array, "B T H W 3"], is_video: bool
    ) -> Float[Array, "B N D"]:
        """Encodes frames; images (`is_video` False) skip the temporal modules."""
        config, numerics = self.config, self.numerics
        frames = normalize_frames(frames, numerics.compute)
        patches = PatchEmbedding(config, numerics, name="patch_embedding")(frames)
        batch, time, count, width = patches.shape
        init = nn.initializers.normal(width**-0.5)
        cls = self.param(
            "class_embedding", named(init, "norm"), (width,), numerics.params
        )
        position = self.param(
            "position_embedding",
            named(init, None, "embed"),
            (1 + config.num_patches, width),
            numerics.params,
        )
        cls = jnp.broadcast_to(cls.astype(patches.dtype), (batch, time, 1, width))
        x = jnp.concatenate([cls, patches], axis=2)  # B T 1+P D
        x = x + position.astype(x.dtype)
        x = layer_norm(config.layer_norm_eps, numerics, name="pre_norm")(x)
        x = self._blocks(is_video)(x, self._drop_path_rates(), None)[0]
        cls = x[:, :, 0].mean(axis=1, keepdims=True)  # B 1 D
        x = jnp.concatenate([cls, x[:, :, 1:].reshape(batch, -1, width)], axis=1)
        return layer_norm(config.layer_norm_eps, numerics, name="post_norm")(x)

    def _blocks(self, is_video: bool):
        blocks = scan_layers(VisionBlock, self.config.num_layers, self.numerics)
        temporal = self.local_temporal and is_video
        return blocks(self.config, temporal, self.numerics, name="blocks")

    def _drop_path_rates(self):
        """Stochastic depth grows linearly to its full rate in the last block."""
        if self.config.drop_path == 0:
            return None
        return jnp.linspace(0, self.config.drop_path, self.config.num_layers)
