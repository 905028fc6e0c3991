"""Whole conversions: a file to a checkpoint folder, CLIP and BERT to one, and back."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax

from mplug2_jax.checkpoint.lazy import LazyArray, Tree
from mplug2_jax.checkpoint.load import (
    Metadata,
    Saveable,
    lazy_checkpoint,
    write_checkpoint,
)
from mplug2_jax.checkpoint.staging import staged
from mplug2_jax.conversion.backward import plan_export
from mplug2_jax.conversion.forward import Conversion, plan_conversion
from mplug2_jax.conversion.infer import infer_config
from mplug2_jax.conversion.initial import (
    FRESH,
    bert_shapes_as_text,
    rename_bert,
    rename_clip,
)
from mplug2_jax.conversion.names import Spelling, read_names
from mplug2_jax.conversion.report import Report
from mplug2_jax.conversion.safetensors_io import read_safetensors, write_safetensors
from mplug2_jax.conversion.torch_io import open_tensors, write_torch
from mplug2_jax.conversion.upstream import HEAD_KEYS
from mplug2_jax.models.config import MPlug2Config
from mplug2_jax.models.mplug2 import MODULES

DEAD = "dead.safetensors"
REPORT = "conversion_report"


class ConversionError(ValueError):
    """A file that does not fit the model; `report` has the details."""

    def __init__(self, report: Report):
        super().__init__(report.problem())
        self.report = report


@dataclasses.dataclass(frozen=True)
class Options:
    """What a user may choose.

    Attributes:
      size: name of a preset; `bert`: a BERT configuration instead.
      modules: the modules to convert; None means all that the file has.
      image_size: resolution to resize the position embeddings to, in pixels.
      temporal_stride: of a stem that merges frames; shapes do not tell it.
      ablations: of a starting checkpoint, by section of the configuration: values that
        no weight of CLIP or BERT decides, such as the number of universal layers.
      allow_missing: regular expression of keys that may be missing.
      keep_dead: whether to keep weights that nothing reads beside the checkpoint.
      tokenizer: saved with the checkpoint.
      seed: of the weights that are initialised.
      progress: called with the bytes of every leaf written, and their total.
    """

    size: str | None = None
    bert: Mapping[str, Any] | None = None
    modules: tuple[str, ...] | None = None
    image_size: int | None = None
    temporal_stride: int | None = None
    ablations: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    allow_missing: str | None = None
    keep_dead: bool = False
    tokenizer: Saveable | None = None
    overwrite: bool = False
    seed: int = 0
    progress: Callable[[int, int], None] = lambda written, total: None


def convert_file(source: Path, target: Path, options: Options) -> Report:
    """Converts a file of upstream's to the checkpoint folder `target`.

    Raises:
      ConversionError: the weights do not fit the model or are not finite.
      ValueError: see `open_tensors` and `infer_config`.
      OSError: reading or writing failed; nothing is left behind.
    """
    file = open_tensors(source)
    names = read_names(file.tensors)
    shapes = {name: file.tensors[key].shape for name, key in names.student.items()}
    config = _chosen(
        infer_config(shapes, size=options.size, bert=options.bert), options
    )
    heads = (head for head, key in HEAD_KEYS.items() if key in names.student)
    modules = options.modules or (*MODULES, *heads)
    plan = plan_conversion(
        file.tensors,
        config,
        modules,
        source=str(source),
        allow_missing=options.allow_missing,
        seed=options.seed,
    )
    if file.ignored:
        plan.report.notes.append(f"other entries, left out: {', '.join(file.ignored)}")
    origin = {
        "kind": "pretraining" if names.spelling.wrappers else "fine-tuned",
        "container": file.container,
        "prefix": names.spelling.prefix,
        "wrappers": dict(names.spelling.wrappers),
        "fusion_layers": plan.fusion_total,
        "dtypes": plan.dtypes,
    }
    metadata = Metadata(config, modules, "upstream", source=origin)
    dead = {key: file.tensors[key] for key in plan.report.dead}
    _write(target, plan, metadata, dead, options)
    return plan.report


def join_files(clip: Path, bert: Path, target: Path, options: Options) -> Report:
    """Joins CLIP and BERT into the checkpoint folder that training starts from.

    Raises: as `convert_file`.
    """
    clip_file, bert_file = open_tensors(clip), open_tensors(bert)
    text = bert_shapes_as_text(bert_file.tensors)
    vision = rename_clip(clip_file.tensors).tensors
    shapes = {key: tensor.shape for key, tensor in {**vision, **text}.items()}
    # A flat kernel says nothing about merging frames in time.
    config = _chosen(
        infer_config(shapes, size=options.size, bert=options.bert), options
    )
    config = config.replace(**options.ablations)
    renamed = (
        rename_clip(clip_file.tensors, 3 if config.vision.temporal_downsampling else 1),
        rename_bert(bert_file.tensors, config),
    )
    allowed = "|".join(filter(None, (FRESH, options.allow_missing)))
    modules = options.modules or MODULES
    plan = plan_conversion(
        renamed[0].tensors | renamed[1].tensors,
        config,
        modules,
        source=f"{clip} with {bert}",
        allow_missing=allowed,
        seed=options.seed,
    )
    for part in renamed:
        plan.report.dead |= part.dead
        plan.report.unexpected += part.unexpected
    origin = {"kind": "clip+bert", "fusion_layers": plan.fusion_total}
    metadata = Metadata(config, modules, "standard", source=origin)
    _write(target, plan, metadata, {}, options)
    return plan.report


def export_checkpoint(directory: Path, target: Path, *, overwrite: bool = False) -> int:
    """Writes a checkpoint folder as `.pth` or `.safetensors`; returns its tensors.

    Dead weights that were kept come back too, and tied weights are tied.

    Raises:
      ValueError: no checkpoint, another suffix, or `target` exists.
      OSError: writing failed; nothing is left behind.
    """
    if target.suffix not in (".pth", ".pt", ".bin", ".safetensors"):
        raise ValueError(
            f"{target} must end in .pth or .safetensors to say what to write."
        )
    params, teacher, metadata = lazy_checkpoint(directory)
    source = metadata.source
    known: dict[str, Any] = {
        "fusion_total": source.get("fusion_layers"),
        "spelling": Spelling(source.get("prefix", ""), source.get("wrappers", {})),
        "dtypes": source.get("dtypes"),
    }
    tensors = plan_export(params, metadata.config, **known)
    if teacher is not None:
        tensors |= plan_export(teacher, metadata.config, **known, teacher=True)
    if (directory / DEAD).exists():
        tensors |= read_safetensors(directory / DEAD)
    with staged(target, overwrite=overwrite) as partial:
        if target.suffix == ".safetensors":
            write_safetensors(partial, tensors)
        else:
            write_torch(partial, tensors, source.get("container", "model"))
    return len(tensors)


def _chosen(config: MPlug2Config, options: Options) -> MPlug2Config:
    """The inferred configuration with what the user chose."""
    vision = {
        "image_size": options.image_size,
        "temporal_stride": options.temporal_stride,
    }
    words, tokenizer = config.text.vocab_size, options.tokenizer
    if tokenizer is not None and tokenizer.vocab_size != words:
        raise ValueError(
            f"The vocabulary has {tokenizer.vocab_size} words, the weights have "
            f"{words}; give the one that the model was trained with."
        )
    return config.replace(vision={k: v for k, v in vision.items() if v is not None})


def _write(
    target: Path,
    plan: Conversion,
    metadata: Metadata,
    dead: Mapping[str, LazyArray],
    options: Options,
) -> None:
    report = plan.report
    if report.problem():
        raise ConversionError(report)
    trees = _watched((plan.params, plan.teacher), options.progress)
    with staged(target, overwrite=options.overwrite) as folder:
        write_checkpoint(folder, trees[0], metadata, trees[1], options.tokenizer)
        if report.problem():  # values are known only now
            raise ConversionError(report)
        if options.keep_dead and dead:
            write_safetensors(folder / DEAD, dead)
        (folder / f"{REPORT}.txt").write_text(report.text())
        (folder / f"{REPORT}.json").write_text(report.to_json())


def _watched(trees: Iterable[Tree | None], progress: Callable[[int, int], None]):
    """The same lazy trees, telling `progress` about every leaf that is read."""
    trees = tuple(trees)
    sizes = [leaf.dtype.itemsize * _count(leaf) for leaf in jax.tree.leaves(trees)]
    total, done = sum(sizes), [0]

    def watch(leaf: LazyArray) -> LazyArray:
        def read():
            array = leaf.read()
            done[0] += array.nbytes
            progress(done[0], total)
            return array

        return LazyArray(leaf.shape, leaf.dtype, read)

    return jax.tree.map(watch, trees)


def _count(leaf: LazyArray) -> int:
    size = 1
    for length in leaf.shape:
        size *= length
    return size
