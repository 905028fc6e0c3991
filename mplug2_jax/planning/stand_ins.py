"""The task of a run whose data, vocabulary and checkpoint may be on another machine.

What is here is read as training reads it. For the rest something of the same shape
stands in: a plan needs nothing else of it.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from absl import logging
from jax.sharding import Mesh

from mplug2_jax.checkpoint.load import read_metadata
from mplug2_jax.checkpoint.parts import BERT_VOCAB_SIZE, find_checkpoint
from mplug2_jax.data.builders import DATASETS
from mplug2_jax.data.builders.declaration import Dataset
from mplug2_jax.data.text import END
from mplug2_jax.data.tokenizers import (
    MASK,
    PAD,
    START,
    UNK,
    Tokenizer,
    WordPieceTokenizer,
    open_tokenizer,
)
from mplug2_jax.tasks.base import Task
from mplug2_jax.training.config import RunConfig
from mplug2_jax.training.start import make_task, with_classes

# Classes of the sets that configs/ names and whose own files say which they are.
CLASSES: Mapping[str, int] = {
    "kinetics400": 400,
    "kinetics600": 600,
    "kinetics700": 700,
    "ssv2": 174,
    "tfds:imagenet2012": 1000,
    "tfds:cifar100": 100,
    "tfds:glue/mnli": 3,
    **{f"tfds:glue/{name}": 2 for name in ("cola", "sst2", "mrpc", "qqp", "qnli")},
    "tfds:glue/rte": 2,
}


def planned_task(config: RunConfig, mesh: Mesh) -> Task:
    """The task as `make_task` makes it for training.

    A checkpoint or vocabulary that is not here is said to be missing; the shapes are
    then those of `config.model`.

    Raises:
      ValueError: nobody knows the number of classes, or as `make_task`.
    """
    config = _with_classes(config)
    named = config.init_from or config.vocab
    words = config.model.text.vocab_size if named else BERT_VOCAB_SIZE
    if config.init_from:
        try:
            metadata = read_metadata(find_checkpoint(config.init_from))
            words = metadata.config.text.vocab_size
        except ValueError as error:
            logging.warning("%s Planned with the shapes of config.model.", error)
            config = dataclasses.replace(config, init_from="")
    return make_task(config, _vocabulary(config.vocab, words), mesh)


def declared(path: str) -> Dataset | None:
    """What `mplug2 prepare` declares of the data set in a folder NAME/VERSION."""
    return DATASETS.get(Path(path).parent.name)


def _with_classes(config: RunConfig) -> RunConfig:
    """The configuration with as many classes as its data have."""
    path = config.train.path
    try:
        return with_classes(config)[0]
    except (ValueError, OSError) as error:
        if not (count := _known_classes(path)):
            raise ValueError(
                f"The classes of {path} are not known here ({str(error).rstrip('.')}); "
                """name them, for example --config.inputs.classes="('no', 'yes')"."""
            ) from error
    inputs = dataclasses.replace(config.inputs, classes=tuple(map(str, range(count))))
    return dataclasses.replace(config, inputs=inputs)


def _known_classes(path: str) -> int:
    """Of a data set, wherever it is; 0 if that is not known."""
    known = declared(path)
    if known is not None and known.classes:
        return len(known.classes)
    return CLASSES.get(known.name if known else path, 0)


def _vocabulary(source: str, words: int) -> Tokenizer:
    """The vocabulary named, or one of so many words."""
    if source:
        try:
            return open_tokenizer(source)
        except OSError as error:
            logging.warning("%s; planned with %d words.", error, words)
    special = (PAD, UNK, START, END, MASK)
    unused = (f"[unused{number}]" for number in range(words - len(special)))
    return WordPieceTokenizer([*special, *unused])
