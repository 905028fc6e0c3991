"""A run's configuration: what a file under `configs/` says, checked and typed."""

import dataclasses
import math
import operator
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from mplug2_jax.data.inputs import InputConfig
from mplug2_jax.data.mixture import PartConfig, parts_of
from mplug2_jax.data.opening import DataConfig
from mplug2_jax.data.pipeline import BatchConfig
from mplug2_jax.models.config import MPlug2Config, from_mapping, preset
from mplug2_jax.predictor import Decoding
from mplug2_jax.sharding.mesh import MeshConfig
from mplug2_jax.tasks import TASKS
from mplug2_jax.tasks.classification import ClassificationConfig
from mplug2_jax.tasks.grounding import GroundingConfig
from mplug2_jax.tasks.pretraining import ObjectivesConfig
from mplug2_jax.training.optimizer import OptimizerConfig
from mplug2_jax.training.profiling import ProfileWindow
from mplug2_jax.training.step import DistillationConfig

PRETRAINING, RETRIEVAL, GROUNDING = "pretraining", "retrieval", "grounding"
TEXTS, PAIRS = "text_classification", "pair_classification"
INSTRUCTED = "captioning_by_instruction"
# Numbers that may be 0, and what 0 says.
NOT_NEGATIVE = {
    "steps": "as many as the epochs give",
    "max_skipped": "never",
    "eval_every": "at the end",
    "save_every": "at the end",
    "eval_examples": "all",
    "rerank": "none",
    "devices": "all",
    "distillation.ramp_steps": "none",
}
_WRITTEN = ("caption_length", "question_length", "answer_length")
# Texts in a task's batches, by the names of their lengths in `InputConfig`.
LENGTHS = {
    "captioning": ("caption_length",),
    INSTRUCTED: _WRITTEN,
    "question_answering": ("question_length", "answer_length"),
    "caption_and_answer": _WRITTEN,
    PRETRAINING: _WRITTEN,
    RETRIEVAL: ("caption_length",),
    GROUNDING: ("question_length",),
    TEXTS: ("text_length",),
    PAIRS: ("text_length",),
}


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """One training run.

    Attributes:
      task: a key of `mplug2_jax.tasks.TASKS`.
      model: shapes; from the checkpoint where the run starts from one.
      init_from: checkpoint folder to start from; empty starts from random weights.
      vocab: tokenizer folder or WordPiece vocabulary; empty: that of `init_from`, and
        without one BERT's from the Hugging Face hub.
      train, batch: of a run on one data set; with a mixture `batch` is read in
        validation alone, where that has videos or images and no part has.
      mixture: parts of a run on several (pretraining), in a file by name, each with
        data and batches of its own; each step takes its batch from one of them.
      validation: the best checkpoint is chosen on it, so it must not be the test data.
      objectives: of pretraining, and of retrieval, which has vlc and vlm.
      classification, grounding: of these tasks. Where `inputs.classes` is empty, the
        classes are those of the training data.
      ema_decay: of a moving average of the parameters, which is then what is
        evaluated and kept as `best` and `final`; 0 means none.
      mesh: how devices share the work; `devices`: only the first so many, 0 means all.
      steps: optimizer steps; 0 means `epochs` passes over the training videos.
      accumulation: parts a batch is processed in.
      max_skipped: a run ends after so many steps in a row whose loss or gradient was
        not finite; such steps change no parameter. 0 means it never ends.
      log_every, eval_every, save_every: in steps; 0 means only at the end.
      eval_examples: at most so many validation examples during training; 0 means all.
      best_by: the validation metric that `best` is chosen by, the highest, or of losses
        and ranks the lowest; empty: the mean of the main ones of what is measured, of
        answers, captions, retrieval, boxes, pairs, classes and texts (SELECTED_BY in
        `training/validation.py`), and of pretraining the loss.
      rerank: of retrieval, in validation and later by default: each query's best so
        many are ordered by matching; 0: none.
      keep: resumable states kept in the workdir, beside the best one.
      profile: "START:STOP" records these steps for TensorBoard's profiler.
      compilation_cache: folder for compiled programs, or "off"; empty: as the
        environment says (see `mplug2 --help`).
      decoding: how validation generates texts.
    """

    task: str
    model: MPlug2Config
    train: DataConfig = DataConfig()
    validation: DataConfig = DataConfig(split="validation")
    mixture: tuple[PartConfig, ...] = ()
    init_from: str = ""
    vocab: str = ""
    inputs: InputConfig = InputConfig()
    batch: BatchConfig = BatchConfig()
    objectives: ObjectivesConfig = ObjectivesConfig()
    classification: ClassificationConfig = ClassificationConfig()
    grounding: GroundingConfig = GroundingConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    distillation: DistillationConfig = DistillationConfig()
    ema_decay: float = 0.0
    mesh: MeshConfig = MeshConfig()
    devices: int = 0
    steps: int = 0
    epochs: float = 10.0
    accumulation: int = 1
    max_skipped: int = 20
    seed: int = 0
    log_every: int = 20
    eval_every: int = 0
    save_every: int = 1000
    eval_examples: int = 0
    best_by: str = ""
    rerank: int = 16
    keep: int = 2
    profile: str = ""
    compilation_cache: str = ""
    decoding: Decoding = Decoding()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "RunConfig":
        """Reads nested mappings; `mixture` maps the parts' names to their values.

        Raises:
          ValueError: unknown or missing keys, or values that do not fit together.
        """
        parts = values.get("mixture", {})
        parts = parts_of(parts) if isinstance(parts, Mapping) else tuple(parts)
        config = from_mapping(cls, {**values, "mixture": parts}, "config")
        config.check()
        return config

    @property
    def batch_sizes(self) -> dict[str, int]:
        """Examples of one step by the kind of batch; "" where there is one kind."""
        if not self.mixture:
            return {"": self.batch.batch_size}
        used = [part for part in self.mixture if part.weight > 0]
        return {part.name: part.batch.batch_size for part in used}

    def check(self) -> None:
        """Raises ValueError for values that do not fit together."""
        for problem in _problems(self):
            raise ValueError(problem)
        ProfileWindow.parse(self.profile, Path())

    def check_lengths(self, model: MPlug2Config) -> None:
        """Raises ValueError for texts that a model has no positions for, or no text."""
        names, positions = LENGTHS.get(self.task, ()), model.text.max_positions
        if any(part.kind == "text" and part.weight > 0 for part in self.mixture):
            names = (*names, "text_length")
        for name in names:
            length = getattr(self.inputs, name)
            if not 2 <= length <= positions:
                raise ValueError(
                    f"config.inputs.{name} is {length}; expected from 2, [CLS] and a "
                    f"token, to {positions}, the model's text.max_positions."
                )


def _problems(config: RunConfig) -> Iterator[str]:
    """What does not fit, most basic first."""
    if config.task not in TASKS:
        yield f"config.task is {config.task!r}; expected one of {sorted(TASKS)}."
    yield from _data_problems(config)
    if config.task in (PRETRAINING, RETRIEVAL):
        yield from _objective_problems(config)
    if config.task == RETRIEVAL:
        yield from _retrieval_problems(config)
    if config.task == GROUNDING:
        yield from _grounding_problems(config)
    if config.task in (TEXTS, PAIRS) and config.classification.mixup:
        yield (
            f"config.classification.mixup is {config.classification.mixup}; task "
            f"{config.task} reads texts, which cannot be mixed: set it to 0."
        )
    if bool(config.inputs.instruction) != (config.task == INSTRUCTED) and (
        config.task in (INSTRUCTED, "captioning", "caption_and_answer")
    ):
        yield (
            f"config.inputs.instruction is {config.inputs.instruction!r} and the task "
            f"{config.task}; captions are made by instruction in task {INSTRUCTED}, "
            "which needs one, and in no other."
        )
    for name, value in _counts(config).items():
        if value < 1:
            yield f"config.{name} is {value}; task {config.task} needs at least 1."
    for name, size in config.batch_sizes.items():
        if config.accumulation < 1 or size % config.accumulation:
            yield (
                f"{_rows_of(name)} {size} does not divide into "
                f"config.accumulation {config.accumulation} equal parts; change one."
            )
    yield from _range_problems(config)
    if config.steps == 0 and config.mixture:
        yield "config.steps is 0; a mixture has no epochs: give the number of steps."
    if config.steps == 0 and not 0 < config.epochs < math.inf:
        yield f"config.epochs is {config.epochs}; expected a number above 0, or steps."


def _range_problems(config: RunConfig) -> Iterator[str]:
    """Single numbers that mean nothing."""
    for name, meaning in NOT_NEGATIVE.items():
        if (value := operator.attrgetter(name)(config)) < 0:
            yield f"config.{name} is {value}; expected 0 ({meaning}) or more."
    for name, value in _shares(config).items():
        if not 0 <= value <= 1:
            yield f"config.{name} is {value}; expected a share from 0 to 1."
    if not 0 <= config.ema_decay < 1:
        yield f"config.ema_decay is {config.ema_decay}; expected 0 (none) to below 1."
    if not 0 <= config.seed < 1 << 32:
        yield f"config.seed is {config.seed}; expected a number from 0 to 2**32 - 1."


def _data_problems(config: RunConfig) -> Iterator[str]:
    if config.mixture and config.task != PRETRAINING:
        yield (
            f"config.mixture is for task {PRETRAINING}; task {config.task} trains on "
            "config.train alone."
        )
    if config.task == PRETRAINING and not config.mixture:
        yield "config.mixture has no parts; pretraining needs at least one."
    if not config.mixture and not config.train.path:
        yield (
            "config.train.path is empty; set it to your annotation file, for example "
            "--config.train.path=train.jsonl."
        )
    for part in config.mixture:
        if part.weight > 0 and not part.data.path:
            yield (
                f"config.mixture.{part.name}.data.path is empty; set it to the part's "
                "data, or leave the part out."
            )
    if config.mixture:
        yield from _unread(config)
    names = (Path(config.validation.path).stem, config.validation.split)
    if config.validation.path and any(map(_names_test, names)):
        yield (
            f"config.validation is {config.validation.path} (split "
            f"{config.validation.split}), by its name test data; the best checkpoint "
            "is chosen on validation data only: give some, or leave the path empty and "
            "score the result with `mplug2 evaluate`."
        )


def _unread(config: RunConfig) -> Iterator[str]:
    """What is set of `train` and `batch` though the mixture's parts have their own."""
    sections: dict[str, tuple[Any, Any, str]] = {
        "train": (config.train, DataConfig(), "data"),
        "batch": (config.batch, BatchConfig(), "batch"),
    }
    kinds = {part.kind for part in config.mixture}
    if config.validation.path and not {"video", "image"} <= kinds:
        del sections["batch"]  # validation of media that no part has reads it
    for name, (given, default, own) in sections.items():
        for key, value in vars(given).items():
            if value != getattr(default, key):
                yield (
                    f"config.{name}.{key} is {value!r}, which a run with a mixture "
                    f"does not read; set config.mixture.NAME.{own}.{key} of the parts "
                    f"({', '.join(part.name for part in config.mixture)})."
                )


def _objective_problems(config: RunConfig) -> Iterator[str]:
    """What the objectives cannot take of the batches."""
    on, used = config.objectives, [part for part in config.mixture if part.weight > 0]
    texts = [part.name for part in used if part.kind == "text"]
    if texts and on.mlm == 0:
        yield (
            "config.objectives.mlm is 0, and texts serve nothing else: leave them out "
            f"with --config.mixture.{texts[0]}.weight=0, or give it a weight."
        )
    for name, size in config.batch_sizes.items():
        if name in texts:
            continue
        if on.vlm > 0 and size < 2:
            yield (
                f"{_rows_of(name)} is {size}; config.objectives.vlm takes its "
                "negatives from the batch: expected at least 2."
            )
        if on.has_queue and size > on.queue_size:
            yield (
                f"{_rows_of(name)} {size} does not fit into config.objectives."
                f"queue_size {on.queue_size}; expected at least as many."
            )


def _rows_of(name: str) -> str:
    """The key of a number in `RunConfig.batch_sizes`."""
    part = f"mixture.{name}." if name else ""
    return f"config.{part}batch.batch_size"


def _retrieval_problems(config: RunConfig) -> Iterator[str]:
    weights = {name: getattr(config.objectives, name) for name in ("mlm", "ilm")}
    if any(weights.values()):
        yield (
            f"config.objectives has the weights {weights}; task {RETRIEVAL} knows vlc "
            "and vlm alone: set these to 0."
        )
    if config.batch.captions_per_video > 1:
        yield (
            f"config.batch.captions_per_video is {config.batch.captions_per_video}; "
            f"task {RETRIEVAL} takes one of a video's captions at a time: set it to 1."
        )


def _grounding_problems(config: RunConfig) -> Iterator[str]:
    """What moves an image's content would move its boxes."""
    batch = config.batch
    if batch.crop_scale is not None or batch.flip or batch.randaugment is not None:
        yield (
            f"config.batch has crop_scale {batch.crop_scale}, flip {batch.flip} and "
            f"randaugment {batch.randaugment}; boxes do not follow these: set them to "
            "None, False and None."
        )


def _names_test(name: str) -> bool:
    """Whether "test" is one of the words of a name: qa_test, test-2, testA."""
    return not {"test", "testa", "testb"}.isdisjoint(re.split("[^a-z]+", name.lower()))


def _shares(config: RunConfig) -> dict[str, float]:
    shares = {
        "distillation.weight": config.distillation.weight,
        "distillation.momentum": config.distillation.momentum,
        "batch.max_bad_share": config.batch.max_bad_share,
    }
    for part in config.mixture:
        name = f"mixture.{part.name}.batch.max_bad_share"
        shares[name] = part.batch.max_bad_share
    return shares


def _counts(config: RunConfig) -> dict[str, int]:
    counts = {
        "batch.batch_size": config.batch.batch_size,
        "batch.threads": config.batch.threads,
        "inputs.num_frames": config.inputs.num_frames,
        "log_every": config.log_every,
        "keep": config.keep,
    }
    if config.task in ("captioning", "caption_and_answer", RETRIEVAL, INSTRUCTED):
        counts["batch.captions_per_video"] = config.batch.captions_per_video
    if config.task in ("question_answering", "caption_and_answer"):
        counts["batch.questions_per_video"] = config.batch.questions_per_video
    if config.task in (GROUNDING, PAIRS):
        counts["batch.texts_per_medium"] = config.batch.texts_per_medium
    if config.task == GROUNDING:
        counts["inputs.num_bins"] = config.inputs.num_bins
    return counts


def default_config(task: str, size: str = "large") -> ConfigDict:
    """All keys of a run with upstream's fine-tuning values, to be changed in a file.

    Args:
      task: a key of `mplug2_jax.tasks.TASKS`.
      size: preset of the model.
    """
    objectives = getattr(TASKS[task], "objectives", ObjectivesConfig())
    model = preset(size)
    room = min(InputConfig.text_length, model.text.max_positions)
    inputs = InputConfig(text_length=room)
    run = RunConfig(task, model, inputs=inputs, objectives=objectives)
    values = ConfigDict(dataclasses.asdict(run) | {"mixture": {}})
    # None has no type; these say what the command line may put in its place.
    nothing = {"rule": placeholder(str), "min_caption_length": placeholder(int)}
    values.decoding = ConfigDict(dataclasses.asdict(run.decoding) | nothing)
    return values


def default_part(kind: str) -> ConfigDict:
    """All keys of a part of a mixture ("video", "image" or "text")."""
    values = dataclasses.asdict(PartConfig(kind=kind))  # type: ignore[arg-type]
    del values["name"]  # its key in the mixture
    return ConfigDict(values)
