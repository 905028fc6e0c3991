"""Plain PyTorch modules of vision encoder, universal layers and text layers.

The same network as `mplug2_jax.models`, in the way PyTorch code is usually written:
linear layers, layer norms, fused attention (`scaled_dot_product_attention`). `load`
copies our parameters in, so that both compute the same numbers. Dropout acts in
training mode, as is usual.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mplug2_jax.models.config import MPlug2Config, TextConfig, VisionConfig


class QuickGELU(nn.Module):
    """CLIP's activation."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Attention(nn.Module):
    """Multi-head attention of `x` over `memory`, by default over itself."""

    def __init__(self, width: int, num_heads: int, dropout: float = 0.0):
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.query, self.key, self.value, self.out = (
            nn.Linear(width, width) for _ in range(4)
        )

    def forward(
        self, x: Tensor, memory: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        memory = x if memory is None else memory
        query, key, value = (
            projected.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # B H L K
            for projected in (self.query(x), self.key(memory), self.value(memory))
        )
        dropout = self.dropout if self.training else 0.0
        out = F.scaled_dot_product_attention(query, key, value, mask, dropout)
        return self.out(out.transpose(1, 2).flatten(2))


class Mlp(nn.Sequential):
    """Two linear layers with an activation between."""

    def __init__(self, width: int, hidden: int, activation: nn.Module):
        super().__init__(nn.Linear(width, hidden), activation, nn.Linear(hidden, width))


class LocalTemporal(nn.Module):
    """Bottleneck with a depthwise convolution over time, on `B T P D`."""

    shifts = False  # three shifted sums, which compile into one kernel, not a Conv3d

    def __init__(self, width: int, epsilon: float):
        super().__init__()
        half = width // 2
        self.norm = nn.LayerNorm(width, eps=epsilon)
        self.down = nn.Linear(width, half)
        self.conv = nn.Conv3d(half, half, (3, 1, 1), padding=(1, 0, 0), groups=half)
        self.activation = QuickGELU()
        self.up = nn.Linear(half, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(self.norm(x))
        return self.up(self.activation(self.over_time(x)))

    def over_time(self, x: Tensor) -> Tensor:
        if not self.shifts:
            x = x.movedim(-1, 1).unsqueeze(-1)  # B D T P 1
            return self.conv(x).squeeze(-1).movedim(1, -1)
        time, padded = x.shape[1], F.pad(x, (0, 0, 0, 0, 1, 1))
        weight, bias = (p.to(x.dtype) for p in self.conv.parameters())
        taps = weight.flatten(1).t()
        return sum((padded[:, k : k + time] * taps[k] for k in range(3)), bias)


class VisionBlock(nn.Module):
    """Local temporal, spatial attention, local temporal, MLP, on `B T 1+P D`."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        width, epsilon = config.width, config.layer_norm_eps
        self.local_temporal_1 = LocalTemporal(width, epsilon)
        self.attention_norm = nn.LayerNorm(width, eps=epsilon)
        self.attention = Attention(width, config.num_heads)
        self.local_temporal_2 = LocalTemporal(width, epsilon)
        self.mlp_norm = nn.LayerNorm(width, eps=epsilon)
        self.mlp = Mlp(width, config.mlp_dim, QuickGELU())

    def forward(self, x: Tensor) -> Tensor:
        x = _on_patches(self.local_temporal_1, x)
        frames = x.flatten(0, 1)
        frames = frames + self.attention(self.attention_norm(frames))
        x = _on_patches(self.local_temporal_2, frames.view_as(x))
        return x + self.mlp(self.mlp_norm(x))


def _on_patches(module: nn.Module, x: Tensor) -> Tensor:
    """A residual branch of the patches alone."""
    cls, patches = x[:, :, :1], x[:, :, 1:]
    return torch.cat([cls, patches + module(patches)], dim=2)


class VisionEncoder(nn.Module):
    """Normalised frames `B 3 T H W` to visual tokens `B 1+T*P D`."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        width, patch = config.width, config.patch_size
        kernel = (1, patch, patch)
        self.patch_embedding = nn.Conv3d(3, width, kernel, stride=kernel, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.position_embedding = nn.Parameter(
            torch.empty(1 + config.num_patches, width)
        )
        self.pre_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.blocks = nn.Sequential(*map(VisionBlock, [config] * config.num_layers))
        self.post_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)

    def forward(self, frames: Tensor) -> Tensor:
        patches = self.patch_embedding(frames).flatten(3).permute(0, 2, 3, 1)
        cls = self.class_embedding.expand(*patches.shape[:2], 1, -1)
        x = torch.cat([cls, patches], dim=2) + self.position_embedding
        x = self.blocks(self.pre_norm(x))
        cls = x[:, :, 0].mean(dim=1, keepdim=True)
        return self.post_norm(torch.cat([cls, x[:, :, 1:].flatten(1, 2)], dim=1))


class TextLayer(nn.Module):
    """Self-attention, cross-attention if `reads`, MLP; a post-norm residual each."""

    def __init__(self, config: TextConfig, reads: bool = True):
        super().__init__()
        width, epsilon = config.width, config.layer_norm_eps
        attention = (width, config.num_heads, config.attention_dropout)
        self.attention = Attention(*attention)
        self.attention_norm = nn.LayerNorm(width, eps=epsilon)
        if reads:
            self.cross_attention = Attention(*attention)
            self.cross_attention_norm = nn.LayerNorm(width, eps=epsilon)
        self.mlp = Mlp(width, config.mlp_dim, nn.GELU())
        self.mlp_norm = nn.LayerNorm(width, eps=epsilon)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None = None,
        mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
    ) -> Tensor:
        x = self.attention_norm(x + self.dropout(self.attention(x, mask=mask)))
        if memory is not None:
            branch = self.cross_attention(x, memory, memory_mask)
            x = self.cross_attention_norm(x + self.dropout(branch))
        return self.mlp_norm(x + self.dropout(self.mlp(x)))


class VisionWithUniversal(nn.Module):
    """`MPlug2.encode_vision(...).embeds` of a video."""

    def __init__(self, config: MPlug2Config):
        super().__init__()
        text, universal = config.text, config.universal
        if config.vision.width != text.width or config.vision.temporal_downsampling:
            raise ValueError(
                "The benchmark's network has one width and no temporal "
                "down-sampling; choose a preset."
            )
        self.vision = VisionEncoder(config.vision)
        self.latents = nn.Parameter(torch.empty(universal.num_latents, text.width))
        layers = map(TextLayer, [text] * universal.num_layers)
        self.layers = nn.ModuleList(layers)
        self.vision_norm = nn.LayerNorm(text.width, eps=text.layer_norm_eps)
        self.dropout = nn.Dropout(text.dropout)

    def forward(self, frames: Tensor) -> Tensor:
        tokens = self.vision(frames)
        hidden = self.latents.expand(len(tokens), -1, -1)
        for layer in self.layers[:-1]:
            hidden = layer(hidden, tokens)
        output = self.layers[-1](tokens, hidden)
        return self.dropout(self.vision_norm(tokens + output))


@torch.no_grad()
def load(module: VisionWithUniversal, params: Mapping[str, Any]) -> None:
    """Copies `vision` and `universal` of our parameters into the module."""
    vision, universal = dict(params["vision"]), dict(params["universal"])
    stacked = vision.pop("blocks")
    kernel = np.asarray(vision.pop("patch_embedding")["kernel"])  # t y x c D
    _set(module.vision.patch_embedding.weight, kernel.transpose(4, 3, 0, 1, 2))
    fill(module.vision, vision)
    for depth, block in enumerate(module.vision.blocks):
        fill(block, stacked, depth)
    for i, layer in enumerate(module.layers):
        fill(layer, universal.pop(f"layer_{i}"))
    fill(module, universal)


def fill(module: nn.Module, tree: Mapping[str, Any], *depth: int) -> None:
    """Fills what `tree` names; `depth` picks a layer of stacked parameters."""
    if isinstance(module, Mlp):
        tree = {"0": tree["up"], "2": tree["down"]}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            fill(getattr(module, name), value, *depth)
            continue
        value = np.asarray(value)[depth]
        if name == "kernel" and isinstance(module, nn.Conv3d):  # taps D
            value = value.T.reshape(module.weight.shape)
        elif name == "kernel":  # inputs, then outputs; heads are part of either
            value = value.reshape(module.in_features, -1).T
        target = "weight" if name in ("kernel", "scale", "embedding") else name
        _set(getattr(module, target), value.reshape(getattr(module, target).shape))


def _set(parameter: nn.Parameter, value: np.ndarray) -> None:
    parameter.copy_(torch.tensor(value))
