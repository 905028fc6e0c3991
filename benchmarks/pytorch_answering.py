"""Question answering, all of its network and its loss, as plain PyTorch modules."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_modules import TextLayer, VisionWithUniversal, fill, load
from torch import Tensor, nn

from mplug2_jax.models.config import MPlug2Config, TextConfig
from mplug2_jax.models.vision import CLIP_MEAN, CLIP_STD


class TextEmbeddings(nn.Module):
    """Word, position and segment 0."""

    def __init__(self, config: TextConfig):
        super().__init__()
        self.word = nn.Embedding(config.padded_vocab_size, config.width)
        self.position = nn.Embedding(config.max_positions, config.width)
        self.token_type = nn.Embedding(config.type_vocab_size, config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.word(ids) + self.position.weight[: ids.shape[1]]
        return self.dropout(self.norm(x + self.token_type.weight[0]))


class TextEncoder(nn.Module):
    """All layers but the universal ones."""

    def __init__(self, config: TextConfig, num_layers: int):
        super().__init__()
        self.embeddings = TextEmbeddings(config)
        layers = (TextLayer(config, reads=False) for _ in range(num_layers))
        self.layers = nn.ModuleList(layers)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.embeddings(ids)
        for layer in self.layers:
            x = layer(x, mask=mask)
        return x


class LMHead(nn.Module):
    """dense -> GELU -> norm, then the word table and a bias."""

    def __init__(self, config: TextConfig):
        super().__init__()
        self.dense = nn.Linear(config.width, config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.empty(config.padded_vocab_size))

    def forward(self, x: Tensor, words: Tensor) -> Tensor:
        return F.linear(self.norm(F.gelu(self.dense(x))), words, self.bias)


class TextDecoder(nn.Module):
    """Causal layers that read a memory; logits of the next tokens."""

    def __init__(self, config: TextConfig, num_layers: int):
        super().__init__()
        self.embeddings = TextEmbeddings(config)
        self.layers = nn.ModuleList(map(TextLayer, [config] * num_layers))
        self.head = LMHead(config)
        self.vocabulary = config.vocab_size

    def forward(self, ids, mask, memory, memory_mask) -> Tensor:
        length = ids.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()
        visible = causal & mask
        x = self.embeddings(ids)
        for layer in self.layers:
            x = layer(x, memory, visible, memory_mask)
        return self.head(x, self.embeddings.word.weight)[..., : self.vocabulary]


class QuestionAnswering(nn.Module):
    """The loss of one weighted answer to one question about each video."""

    def __init__(self, config: MPlug2Config):
        super().__init__()
        text, universal = config.text, config.universal
        self.seen = VisionWithUniversal(config)
        self.text = TextEncoder(text, text.num_layers - universal.num_layers)
        self.fusion = nn.ModuleList(map(TextLayer, [text] * config.fusion.num_layers))
        self.decoder = TextDecoder(text, config.decoder.num_layers)
        mean, std = (torch.tensor(x).view(3, 1, 1, 1) for x in (CLIP_MEAN, CLIP_STD))
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def forward(self, frames, question, question_mask, answer, answer_mask, weight):
        """Frames uint8 `B T H W 3`; ids and masks `B L`; weight `B`."""
        pixels = (frames.permute(0, 4, 1, 2, 3) / 255 - self.mean) / self.std
        vision = self.seen(pixels)
        visible = question_mask[:, None, None].bool()
        x = self.text(question, visible)
        for layer in self.seen.layers:
            x = layer(x, mask=visible)
        for layer in self.fusion:
            x = layer(x, vision, visible)
        memory_mask = F.pad(visible, (vision.shape[1], 0), value=True)
        memory = torch.cat([vision, x], dim=1)
        answers = answer_mask[:, None, None].bool()
        logits = self.decoder(answer, answers, memory, memory_mask)
        losses = F.cross_entropy(
            logits[:, :-1].flatten(0, 1).float(),
            answer[:, 1:].flatten(),
            reduction="none",
        ).view(len(answer), -1)
        return ((losses * answer_mask[:, 1:]).sum(1) * weight).mean()


@torch.no_grad()
def load_answering(module: QuestionAnswering, params: Mapping[str, Any]) -> None:
    """Copies all of our parameters of the task into the module."""
    load(module.seen, params)
    for ours, theirs in ("text", module.text), ("decoder", module.decoder):
        tree = dict(params[ours])
        stacked = tree.pop("layers")
        fill(theirs, tree)
        for depth, layer in enumerate(theirs.layers):
            fill(layer, stacked, depth)
    for i, layer in enumerate(module.fusion):
        fill(layer, params["fusion"][f"layer_{i}"])
