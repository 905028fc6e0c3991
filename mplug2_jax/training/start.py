"""What a run starts with: devices, vocabulary, task, weights, data."""

import dataclasses
import operator
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from mplug2_jax.checkpoint.load import (
    Metadata,
    has_teacher,
    load_checkpoint,
    read_metadata,
)
from mplug2_jax.checkpoint.parts import find_checkpoint, stored_tokenizer
from mplug2_jax.data.batches import Batches
from mplug2_jax.data.mixture import mixture_batches
from mplug2_jax.data.opening import open_examples, open_text_examples
from mplug2_jax.data.pipeline import (
    epochs_to_steps,
    text_batches,
    training_batches,
)
from mplug2_jax.data.records import classes_of
from mplug2_jax.data.targets import targets_of
from mplug2_jax.data.tokenizers import Tokenizer, open_tokenizer
from mplug2_jax.models.ablations import ABLATIONS
from mplug2_jax.models.config import PRESETS, MPlug2Config
from mplug2_jax.models.mplug2 import HEADS
from mplug2_jax.sharding.mesh import make_mesh
from mplug2_jax.sharding.partition import check_batch, process_part, row_shards
from mplug2_jax.tasks import CLASSIFICATION, TASKS
from mplug2_jax.tasks.base import Task
from mplug2_jax.training.config import GROUNDING, PRETRAINING, TEXTS, RunConfig
from mplug2_jax.types import MultimodalBatch


def with_classes(config: RunConfig) -> tuple[RunConfig, Any]:
    """The run's configuration with the classes of its training data, where it has none.

    Returns:
      The configuration, and the training data if they had to be opened for it.

    Raises:
      ValueError: there are fewer than two.
    """
    named = config.inputs.classes or config.classification.regression
    if config.task not in CLASSIFICATION or named:
        return config, None
    examples = _open_training(config)
    classes = classes_of(examples, texts=config.task == "pair_classification")
    if len(classes) < 2:
        raise ValueError(
            f"{config.train.path} has the classes {list(classes)}; a classifier needs "
            "two: give each example a label."
        )
    inputs = dataclasses.replace(config.inputs, classes=classes)
    return dataclasses.replace(config, inputs=inputs), examples


def _open_training(config: RunConfig) -> Any:
    """The training data of a run on one data set."""
    opened = open_text_examples if config.task == TEXTS else open_examples
    return opened(config.train, config.batch.max_bad_share)


def open_mesh(config: RunConfig) -> Mesh:
    """The run's devices.

    Raises:
      ValueError: the mesh does not divide them, or a batch does not divide the mesh.
    """
    devices, wanted = jax.devices(), config.devices
    if wanted > len(devices) or (wanted and jax.process_count() > 1):
        raise ValueError(
            f"config.devices is {wanted}, there are {len(devices)} devices of "
            f"{jax.process_count()} processes; use 0, all of them."
        )
    mesh = make_mesh(config.mesh, devices[:wanted] if wanted else devices)
    for rows in config.batch_sizes.values():
        check_batch(rows, mesh, config.accumulation)
    return mesh


def open_vocabulary(config: RunConfig) -> Tokenizer:
    """The tokenizer named, else the starting checkpoint's, else BERT's.

    Raises:
      ValueError: there is no starting checkpoint, or the vocabulary cannot be read.
      OSError: there is no vocabulary.
    """
    stored = None
    if config.init_from and not config.vocab:
        folder = find_checkpoint(config.init_from)
        read_metadata(folder)  # that it is missing is said before a vocabulary is
        stored = stored_tokenizer(folder)
    return stored or open_tokenizer(config.vocab)


def make_task(config: RunConfig, tokenizer: Tokenizer, mesh: Mesh) -> Task:
    """The task with its model, with the starting checkpoint's shapes if there is one.

    Raises:
      ValueError: no checkpoint, or one of another vocabulary or another model, or
        texts that do not fit it.
    """
    if not config.init_from:
        text = {"vocab_size": tokenizer.vocab_size}
        return _task(config, config.model.replace(text=text), tokenizer, mesh)
    metadata = read_metadata(find_checkpoint(config.init_from))
    words = metadata.config.text.vocab_size
    if tokenizer.vocab_size != words:
        raise ValueError(
            f"The tokenizer has {tokenizer.vocab_size} entries, the checkpoint "
            f"{config.init_from} {words}; give the vocabulary it was trained with "
            "(--config.vocab=PATH)."
        )
    _check_ablations(config, metadata)
    model = _trained_as(metadata.config, config.model)
    if "contrastive" not in metadata.modules:  # a head that starts here
        model = dataclasses.replace(model, contrastive=config.model.contrastive)
    model = dataclasses.replace(model, classifier=config.model.classifier)
    return _task(config, model, tokenizer, mesh)


def _task(config: RunConfig, model: MPlug2Config, tokenizer, mesh: Mesh) -> Task:
    config.check_lengths(model)
    ids = {"cls_id": tokenizer.start_id, "mask_id": tokenizer.mask_id}
    if config.task in CLASSIFICATION:
        count = 1 if config.classification.regression else len(config.inputs.classes)
        model = model.replace(classifier={"num_classes": count})
    offered: dict[str, Any] = {
        "prompt_length": config.inputs.prompt_length(tokenizer),
        "objectives": dataclasses.replace(config.objectives, **ids),
        "shards": row_shards(mesh),
        "classification": config.classification,
        "grounding": config.grounding,
    }
    if config.task == GROUNDING:
        offered["coordinates"] = config.inputs.coordinates(tokenizer)
    task_class = TASKS[config.task]
    taken = {field.name for field in dataclasses.fields(task_class)}
    return task_class(model, **{k: v for k, v in offered.items() if k in taken})


def _check_ablations(config: RunConfig, metadata: Metadata) -> None:
    """The paper's ablations are decided where the weights are put together or trained.

    Other tasks than pretraining leave the model to their checkpoint: there a value that
    a preset has asks for nothing.

    Raises:
      ValueError: the run asks for another model than the checkpoint's.
    """
    options = {f"{s}.{n}": name for name, (s, n) in ABLATIONS.items()}
    if "contrastive" in metadata.modules:
        options["contrastive.after"] = ""  # of a head that is there, no option
    for place, option in options.items():
        value = operator.attrgetter(place)
        found, wanted = value(metadata.config), value(config.model)
        default = wanted in [value(make()) for make in PRESETS.values()]
        if found != wanted and (config.task == PRETRAINING or not default):
            given = option and f" --{option.replace('_', '-')} {wanted}"
            raise ValueError(
                f"config.model.{place} is {wanted!r}, {config.init_from} has "
                f"{found!r}; set it so, or make the checkpoint again with `mplug2 "
                f"convert --clip ... --bert ...{given}`."
            )


def _trained_as(stored: MPlug2Config, wanted: MPlug2Config) -> MPlug2Config:
    """The stored shapes with the run's numerics, dropout and drop path."""
    text = wanted.text
    return stored.replace(
        numerics=wanted.numerics,
        vision={"drop_path": wanted.vision.drop_path},
        text={"dropout": text.dropout, "attention_dropout": text.attention_dropout},
    )


def starting_weights(config: RunConfig, task: Task) -> tuple[Any, Any]:
    """Parameters and teacher of the starting checkpoint; None: to be drawn, copied.

    Only the task's modules are read; which these are, and what is left, is printed.

    Heads that the checkpoint lacks are drawn at random: pretraining may start from
    CLIP and BERT. The teacher is the checkpoint's momentum copy, if it has one and the
    run wants it.

    Raises:
      ValueError: other modules are missing, or the file is damaged.
    """
    if not config.init_from:
        return None, None
    folder = find_checkpoint(config.init_from)
    metadata = read_metadata(folder)
    known = set(metadata.modules)
    if not _same_classes(config, task, metadata):
        known.discard("classifier")
    heads = (*HEADS, "classifier")
    fresh = [name for name in task.modules if name in heads and name not in known]
    modules = [name for name in task.modules if name not in fresh]
    if jax.process_index() == 0:
        print(_taken(str(folder), modules, metadata.modules, fresh), flush=True)
    params, _ = load_checkpoint(folder, modules, on_host=True)
    teacher, queue = None, jax.eval_shape(task.init_queue)
    if config.distillation.needs_teacher(queue) and has_teacher(folder):
        teacher, _ = load_checkpoint(folder, modules, tree="teacher", on_host=True)
    if fresh:
        drawn = jax.jit(lambda key: {name: task.init(key)[name] for name in fresh})(
            jax.random.key(config.seed)
        )
        params = params | drawn
        teacher = teacher if teacher is None else teacher | drawn
    return params, teacher


def _same_classes(config: RunConfig, task: Task, metadata: Metadata) -> bool:
    """Whether a stored classifier's scores mean what this run's do."""
    stored = tuple(metadata.inputs.get("classes", ()))
    its = metadata.config.classifier
    return stored == config.inputs.classes and its == task.config.classifier


def _taken(
    folder: str, taken: Sequence[str], known: Sequence[str], fresh: Sequence[str]
) -> str:
    """What a run takes of a checkpoint, leaves there and draws at random."""
    left = [name for name in known if name not in taken]
    parts = {"left there": left, "at random": fresh}
    rest = [f"; {what}: {', '.join(names)}" for what, names in parts.items() if names]
    return f"from {folder}: {', '.join(taken)}{''.join(rest)}"


class Source:
    """The run's batches, each with its kind; `steps` is how many the run takes."""

    def __init__(
        self, config: RunConfig, task: Task, tokenizer, mesh: Mesh, examples: Any = None
    ):
        """Opens the training data, if `with_classes` has not.

        Raises ValueError or OSError: they are missing or unusable.
        """
        self.mixed = bool(config.mixture)
        size = task.config.vision.image_size
        shared = (tokenizer, config.inputs)
        if self.mixed:
            self.steps = config.steps
            rest = (size, config.seed, *process_part(mesh))
            self.batches = mixture_batches(config.mixture, *shared, *rest)
            return
        make = self._of_texts if config.task == TEXTS else self._of_media
        self.batches: Batches
        examples = _open_training(config) if examples is None else examples
        where = process_part(mesh)
        self.batches, steps = make(examples, config, size, *shared, *where)
        self.steps = config.steps or steps

    def _of_media(
        self, examples, config: RunConfig, size: int, tokenizer, inputs, *process: int
    ):
        """Batches of videos or images, and the steps of the configured epochs."""
        batch, regression = config.batch, config.classification.regression
        media = config.model.classifier.num_media
        targets = targets_of(config.task, tokenizer, inputs, batch, regression, media)
        steps = epochs_to_steps(config.epochs, examples, batch.batch_size, targets)
        shared = examples, tokenizer, inputs, batch, size, config.seed, *process
        return training_batches(*shared, targets=targets), steps

    def _of_texts(
        self, examples, config: RunConfig, size: int, tokenizer, inputs, *process: int
    ):
        """Batches of texts alone."""
        batch, regression = config.batch, config.classification.regression
        steps = epochs_to_steps(config.epochs, examples, batch.batch_size)
        shared = examples, tokenizer, inputs, batch, config.seed, *process
        return text_batches(*shared, regression=regression), steps

    def __iter__(self) -> Iterator[tuple[str, MultimodalBatch]]:
        for item in self.batches:
            yield item if self.mixed else ("", item)
