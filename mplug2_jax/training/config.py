"""A run's configuration: what a file under `configs/` says, checked and typed."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from mplug2_jax.data.inputs import InputConfig
from mplug2_jax.data.pipeline import BatchConfig
from mplug2_jax.models.config import MPlug2Config, from_mapping, preset
from mplug2_jax.predictor import Decoding
from mplug2_jax.tasks import TASKS
from mplug2_jax.training.optimizer import OptimizerConfig, make_optimizer
from mplug2_jax.training.step import DistillationConfig


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """An annotation file (see `data/sources.py`) and the folder of its media.

    Attributes:
      path: JSON lines; empty turns the split off.
      media: folder the media names are relative to; empty: the file's own.
    """

    path: str = ""
    media: str = ""


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """One training run.

    Attributes:
      task: a key of `mplug2_jax.tasks.TASKS`.
      model: shapes; from the checkpoint where the run starts from one.
      init_from: checkpoint folder to start from; empty starts from random weights.
      vocab: tokenizer folder or WordPiece vocabulary; empty: that of `init_from`, and
        without one BERT's from the Hugging Face hub.
      train, validation: data; the best checkpoint is chosen on `validation`.
      steps: optimizer steps; 0 means `epochs` passes over the training videos.
      accumulation: parts a batch is processed in.
      log_every, eval_every, save_every: in steps; 0 means only at the end.
      eval_examples: at most so many validation examples during training; 0 means all.
      keep: resumable states kept in the workdir.
      decoding: how validation generates texts.
    """

    task: str
    model: MPlug2Config
    train: DataConfig
    validation: DataConfig = DataConfig()
    init_from: str = ""
    vocab: str = ""
    inputs: InputConfig = InputConfig()
    batch: BatchConfig = BatchConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    distillation: DistillationConfig = DistillationConfig()
    steps: int = 0
    epochs: float = 10.0
    accumulation: int = 1
    seed: int = 0
    log_every: int = 20
    eval_every: int = 0
    save_every: int = 1000
    eval_examples: int = 0
    keep: int = 2
    decoding: Decoding = Decoding()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "RunConfig":
        """Reads nested mappings.

        Raises:
          ValueError: unknown or missing keys, or values that do not fit together.
        """
        config = from_mapping(cls, values, "config")
        config.check()
        return config

    def check(self) -> None:
        """Raises ValueError for values that do not fit together."""
        if self.task not in TASKS:
            raise ValueError(
                f"config.task is {self.task!r}; expected one of {sorted(TASKS)}."
            )
        if not self.train.path:
            raise ValueError(
                "config.train.path is empty; set it to your annotation file, for "
                "example --config.train.path=train.jsonl."
            )
        counts = {
            "batch.batch_size": self.batch.batch_size,
            "batch.threads": self.batch.threads,
            "inputs.num_frames": self.inputs.num_frames,
            "log_every": self.log_every,
        }
        if self.task != "question_answering":
            counts["batch.captions_per_video"] = self.batch.captions_per_video
        if self.task != "captioning":
            counts["batch.questions_per_video"] = self.batch.questions_per_video
        for name, value in counts.items():
            if value < 1:
                raise ValueError(
                    f"config.{name} is {value}; task {self.task} needs at least 1."
                )
        make_optimizer(self.optimizer, 1)
        if self.accumulation < 1 or self.batch.batch_size % self.accumulation:
            raise ValueError(
                f"config.batch.batch_size {self.batch.batch_size} does not divide into "
                f"config.accumulation {self.accumulation} equal parts; change one."
            )


def default_config(task: str, size: str = "large") -> ConfigDict:
    """All keys of a run with upstream's fine-tuning values, to be changed in a file.

    Args:
      task: a key of `mplug2_jax.tasks.TASKS`.
      size: preset of the model.
    """
    run = RunConfig(task, preset(size), DataConfig())
    values = ConfigDict(dataclasses.asdict(run))
    # None has no type; these say what the command line may put in its place.
    nothing = {"rule": placeholder(str), "min_caption_length": placeholder(int)}
    values.decoding = ConfigDict(dataclasses.asdict(run.decoding) | nothing)
    return values
