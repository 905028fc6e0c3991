"""Shape and numerics of every module: one frozen dataclass each, three presets.

Numbers of `large` and `base` come from mPLUG-2's released configuration (paper
section 4, `config_bert_large_text.json`, `config_bert_base.json`) and from CLIP
ViT-L/14 and ViT-B/16. `tiny` is ours: it trains on a laptop.
"""

import dataclasses
import operator
import typing
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp

VOCAB_MULTIPLE = 128  # rows of a word table divide evenly over any usual mesh
MAY_BE_ZERO = ("universal.num_layers", "fusion.num_layers", "fusion.connected_stride")
SHARES = ("vision.drop_path", "text.dropout", "text.attention_dropout")
T = typing.TypeVar("T")


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """Dual-vision encoder: a CLIP ViT with local temporal modules in each block."""

    width: int
    num_layers: int
    num_heads: int
    patch_size: int
    image_size: int
    mlp_dim: int
    layer_norm_eps: float = 1e-5
    # The stem may merge neighbouring frames: kernel 3 over time with this stride.
    temporal_downsampling: bool = False
    temporal_stride: int = 2
    drop_path: float = 0.0
    # Zero keeps a pretrained CLIP unchanged at the start; without one there is
    # nothing to keep, and "normal" lets motion be learned from the first step.
    local_temporal_init: Literal["zeros", "normal"] = "zeros"
    # Upstream has a local temporal module before and after the attention of each
    # block; the paper draws "first" alone, its ablation has "none".
    local_temporal: Literal["both", "first", "none"] = "both"
    init_std: float = 0.02

    @property
    def kernel_init(self) -> jax.nn.initializers.Initializer:
        """Of every matrix that is not pretrained."""
        return jax.nn.initializers.normal(self.init_std)

    @property
    def num_patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """BERT's constants; text encoder, universal, fusion and decoder share them."""

    width: int
    num_heads: int
    mlp_dim: int
    num_layers: int  # counts the universal layers, which are the last ones
    vocab_size: int = 30522
    max_positions: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    dropout: float = 0.1
    attention_dropout: float = 0.1
    init_std: float = 0.02

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the word tables: `vocab_size` rounded up to a multiple of 128."""
        return -(-self.vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE


@dataclasses.dataclass(frozen=True)
class UniversalConfig:
    """Layers shared by vision and text, and the latents that pool the video.

    Without layers (the paper's ablation) both modalities keep their encoder's states,
    and there are neither latents nor a norm of the sum.
    """

    num_layers: int = 2
    num_latents: int = 50


@dataclasses.dataclass(frozen=True)
class FusionConfig:
    """Text layers with cross-attention to vision.

    Every `connected_stride`-th layer after the first attends over vision and text
    joined (upstream's `stride_layer`); 0 means none.
    """

    num_layers: int
    connected_stride: int = 0

    def is_connected(self, layer: int) -> bool:
        """Whether `layer`, counted from the first that runs, is a connected one."""
        stride = self.connected_stride
        return stride > 0 and layer > 0 and layer % stride == 0


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    num_layers: int = 12


@dataclasses.dataclass(frozen=True)
class ContrastiveConfig:
    """Heads of the contrastive loss (values of ALBEF and mPLUG).

    Attributes:
      width: of the features.
      after: the class tokens are read after the universal layers, or before them.
      temperature: learned, from this value.
    """

    width: int = 256
    after: Literal["universal", "encoder"] = "universal"
    temperature: float = 0.07


@dataclasses.dataclass(frozen=True)
class ClassifierConfig:
    """Head of classification: one linear map of class tokens.

    Attributes:
      num_classes: 1 in regression.
      num_media: whose class tokens it reads, side by side (NLVR2 has two images).
    """

    num_classes: int = 2
    num_media: int = 1


@dataclasses.dataclass(frozen=True)
class Numerics:
    """Computation and parameter types, and what the backward pass recomputes."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    param_dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Literal["none", "dots", "full"] = "none"

    @property
    def compute(self) -> jnp.dtype:
        return jnp.dtype(self.dtype)

    @property
    def params(self) -> jnp.dtype:
        return jnp.dtype(self.param_dtype)


@dataclasses.dataclass(frozen=True)
class MPlug2Config:
    """The whole model; which of its modules exist is the task's choice."""

    vision: VisionConfig
    text: TextConfig
    fusion: FusionConfig
    decoder: DecoderConfig = DecoderConfig()
    universal: UniversalConfig = UniversalConfig()
    contrastive: ContrastiveConfig = ContrastiveConfig()
    classifier: ClassifierConfig = ClassifierConfig()
    numerics: Numerics = Numerics()

    def __post_init__(self):
        _validate(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "MPlug2Config":
        """Builds the config from nested mappings; unknown or missing keys raise."""
        return from_mapping(cls, values, "model")

    def to_dict(self) -> dict[str, Any]:
        """The nested plain dict that `from_dict` reads."""
        return dataclasses.asdict(self)

    def replace(self, **sections: Any) -> "MPlug2Config":
        """A copy; a section given as a mapping changes only the keys it names."""
        merged = {
            name: dataclasses.replace(getattr(self, name), **value)
            if isinstance(value, Mapping)
            else value
            for name, value in sections.items()
        }
        return dataclasses.replace(self, **merged)


def from_mapping(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Builds the dataclass `cls`, nested ones included; `where` names it in errors.

    Raises:
      ValueError: unknown or missing keys, or a value of another type.
    """
    types = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    if unknown := sorted(set(values) - set(fields)):
        raise ValueError(
            f"Unknown key {where}.{unknown[0]}; expected one of {sorted(fields)}."
        )
    required = {n for n, f in fields.items() if f.default is dataclasses.MISSING}
    if missing := sorted(required - set(values)):
        raise ValueError(f"Missing key {where}.{missing[0]}; give it a value.")
    built = {k: _value(types[k], v, f"{where}.{k}") for k, v in values.items()}
    return cls(**built)


def _value(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
        return from_mapping(kind, value, where)  # type: ignore[arg-type]
    if isinstance(value, list):  # JSON knows no tuples
        value = tuple(value)
    if value == (None,) and type(None) in typing.get_args(kind):
        return None  # how a command line says that a tuple is None
    if isinstance(value, tuple):
        return value
    if kind is float and type(value) is int:
        return float(value)
    if kind in (int, float, str, bool) and type(value) is not kind:
        raise ValueError(
            f"{where} is {value!r}; expected a value of type {kind.__name__}."
        )
    if typing.get_origin(kind) is Literal and value not in typing.get_args(kind):
        raise ValueError(
            f"{where} is {value!r}; expected one of {list(typing.get_args(kind))}."
        )
    return value


def _validate(config: MPlug2Config) -> None:
    vision, text = config.vision, config.text

    def need(condition: bool, message: str) -> None:
        if not condition:
            raise ValueError(message)

    for section, its in vars(config).items():
        for key, value in vars(its).items():
            least = 0 if (name := f"{section}.{key}") in MAY_BE_ZERO else 1
            fits = type(value) is not int or value >= least
            need(fits, f"{name} is {value}; expected at least {least}.")
    for name in SHARES:
        value = operator.attrgetter(name)(config)
        need(0 <= value < 1, f"{name} is {value}; expected a share from 0 to below 1.")
    need(
        vision.image_size % vision.patch_size == 0,
        f"vision.image_size {vision.image_size} is no multiple of vision.patch_size "
        f"{vision.patch_size}; change one of them.",
    )
    for name, block in (("vision", vision), ("text", text)):
        need(
            block.width % block.num_heads == 0,
            f"{name}.width {block.width} does not divide into {name}.num_heads "
            f"{block.num_heads} heads; change one of them.",
        )
    need(
        config.universal.num_layers <= text.num_layers,
        f"universal.num_layers {config.universal.num_layers} exceeds text.num_layers "
        f"{text.num_layers}; the universal layers are the last text layers.",
    )


def large() -> MPlug2Config:
    """The released model: CLIP ViT-L/14 and BERT-large."""
    return MPlug2Config(
        vision=VisionConfig(1024, 24, 16, 14, 224, 4096),
        text=TextConfig(1024, 16, 4096, 24),
        fusion=FusionConfig(6),
    )


def base() -> MPlug2Config:
    """CLIP ViT-B/16 and BERT-base; described in the paper, never released."""
    return MPlug2Config(
        vision=VisionConfig(768, 12, 12, 16, 224, 3072),
        text=TextConfig(768, 12, 3072, 12),
        fusion=FusionConfig(3),
    )


def tiny() -> MPlug2Config:
    """About a million parameters, trained from nothing on CPU by the quickstart.

    Initial matrices are about as large as 1 / sqrt(width): with BERT's 0.02 a narrow
    model's branches whisper, and motion is learned last.
    """
    return MPlug2Config(
        vision=VisionConfig(
            width=96,
            num_layers=3,
            num_heads=4,
            patch_size=12,
            image_size=48,
            mlp_dim=192,
            local_temporal_init="normal",
            init_std=0.1,
        ),
        text=TextConfig(
            width=96,
            num_heads=4,
            mlp_dim=192,
            num_layers=3,
            vocab_size=128,
            max_positions=64,
            dropout=0.0,
            attention_dropout=0.0,
            init_std=0.1,
        ),
        fusion=FusionConfig(2),
        decoder=DecoderConfig(2),
        universal=UniversalConfig(num_layers=2, num_latents=8),
    )


PRESETS = {"tiny": tiny, "base": base, "large": large}


def preset(name: str) -> MPlug2Config:
    """The preset called `name`; raises ValueError for any other name."""
    if name not in PRESETS:
        raise ValueError(f"No preset {name!r}; expected one of {sorted(PRESETS)}.")
    return PRESETS[name]()
