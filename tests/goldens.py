"""The stored outputs of the official PyTorch code and the models that made them.

Weights are not stored: each follows from its key, its shape and the folder's seed
(`tests/golden/README.md`).
"""

import functools
import json
import pathlib
import zlib

import numpy as np

from mplug2_jax.models.config import (
    DecoderConfig,
    FusionConfig,
    MPlug2Config,
    TextConfig,
    UniversalConfig,
    VisionConfig,
)

FOLDER = pathlib.Path(__file__).parent / "golden"
NAMES = ("base", "proj", "stride", "image", "tdown")
_TIED = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}


def read_json(name: str, file: str):
    return json.loads((FOLDER / name / file).read_text())


@functools.cache
def arrays(name: str, file: str = "io.npz") -> dict[str, np.ndarray]:
    with np.load(FOLDER / name / file) as stored:
        return dict(stored)


def frames(video: np.ndarray) -> np.ndarray:
    """Upstream's `B 3 T H W` as our `B T H W 3`."""
    return np.moveaxis(video, 1, -1)


def weight(key: str, shape: tuple[int, ...], seed: int, scalar: float = 2.6593):
    """The weight that the rule gives to `key`."""
    for tied, owner in _TIED.items():
        key = key.replace(tied, owner)
    if key.endswith("position_ids"):
        return np.arange(np.prod(shape), dtype=np.int64).reshape(shape)
    if shape == ():
        return np.float32(scalar)
    rng = np.random.default_rng([seed, zlib.crc32(key.encode())])
    noise = rng.standard_normal(shape)
    if key.endswith("latents"):
        value = noise
    elif len(shape) > 1:
        value = noise * 1.3 / np.sqrt(np.prod(shape[1:]))
    elif key.endswith("bias"):
        value = 0.05 * noise
    elif key.endswith("weight"):
        value = 1 + 0.1 * noise
    else:
        value = 0.1 * noise
    return value.astype(np.float32)


@functools.cache
def state_dict(name: str, kind: str = "qa") -> dict[str, np.ndarray]:
    """Upstream's state dict of the folder's `kind` model: caption, qa, pretrain..."""
    seed = read_json(name, "config.json")["seed"]
    keys = read_json(name, f"{kind}_keys.json")
    scalar = 0.07 if kind == "pretrain" else 2.6593
    return {k: weight(k, tuple(shape), seed, scalar) for k, shape in keys.items()}


@functools.cache
def config(name: str) -> MPlug2Config:
    """Our configuration of the folder's model."""
    stored = read_json(name, "config.json")
    bert, vision, extra = stored["bert"], stored["vision"], stored["extra"]
    stride = bert["stride_layer"]
    return MPlug2Config(
        vision=VisionConfig(
            width=vision["width"],
            num_layers=vision["layers"],
            num_heads=vision["width"] // 64,
            patch_size=vision["patch"],
            image_size=vision["res"],
            mlp_dim=4 * vision["width"],
            **extra,
        ),
        text=TextConfig(
            width=bert["hidden_size"],
            num_heads=bert["num_attention_heads"],
            mlp_dim=bert["intermediate_size"],
            num_layers=bert["text_encoder_layers"],
            vocab_size=bert["vocab_size"],
            max_positions=bert["max_position_embeddings"],
            dropout=0.0,
            attention_dropout=0.0,
        ),
        fusion=FusionConfig(
            bert["fusion_layers"],
            connected_stride=stride if stride < bert["num_hidden_layers"] else 0,
        ),
        decoder=DecoderConfig(bert["text_decode_layers"]),
        universal=UniversalConfig(bert["num_uni_layer"]),
    )


@functools.cache
def params(name: str, modules: tuple[str, ...] | None = None):
    """The folder's weights, through the converter."""
    from mplug2_jax.conversion import convert_state_dict
    from mplug2_jax.models.mplug2 import MODULES

    converted = convert_state_dict(state_dict(name), config(name), modules or MODULES)
    return converted[0]
