"""Evaluation during training: on validation data, and what is kept of it.

Test data have no place here: what is chosen by looking at them is not measured by them.
"""

import dataclasses
import functools
import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mplug2_jax.checkpoint.load import Metadata, read_metadata, save_checkpoint
from mplug2_jax.data.mixture import PartConfig, mixture_batches
from mplug2_jax.data.opening import first, open_examples, open_text_examples
from mplug2_jax.data.pipeline import all_images
from mplug2_jax.data.tfds_sets import glue_task
from mplug2_jax.data.tokenizers import Tokenizer
from mplug2_jax.evaluation.retrieval import retrieve
from mplug2_jax.evaluation.runner import evaluate
from mplug2_jax.evaluation.texts import evaluate_texts
from mplug2_jax.predictor import Predictor
from mplug2_jax.sharding.distributed import meet
from mplug2_jax.sharding.partition import (
    on_mesh,
    process_part,
    row_shards,
    shard_batch,
)
from mplug2_jax.sharding.replicas import replicated
from mplug2_jax.tasks.base import Task
from mplug2_jax.tasks.pretraining import Pretraining
from mplug2_jax.training.config import PRETRAINING, RETRIEVAL, TEXTS, RunConfig
from mplug2_jax.training.step import TrainState

# Without `best_by`, the mean of these, of those that the validation data give.
SELECTED_BY = (
    *("vqa/accuracy", "qa/accuracy", "caption/cider", "caption/exact_match"),
    *("text_to_video/recall_1", "video_to_text/recall_1"),
    *("grounding/accuracy_50", "pairs/accuracy", "classification/accuracy"),
    *("pairs/pearson", "classification/pearson"),
    # Of text classification the mean of what is measured, as GLUE takes it.
    *(
        f"text_classification/{name}"
        for name in ("accuracy", "f1", "matthews", "pearson", "spearman")
    ),
)
LOWER_IS_BETTER = ("loss", "rank")
Evaluate = Callable[[TrainState, Callable[[], None]], dict[str, float]]


def weights_of(state: TrainState) -> Any:
    """The parameters that a run is judged by: the moving average, if it has one."""
    return state.params if state.ema is None else state.ema


class Best:
    """Judges evaluations, and writes the checkpoint folders of a workdir.

    Args:
      resumed: whether there is a state to go on from; without one, what an earlier run
        found best here is of no run that can go on, and is removed.
    """

    def __init__(
        self,
        workdir: Path,
        metadata: Metadata,
        tokenizer: Tokenizer,
        best_by: str,
        *,
        resumed: bool,
    ):
        self.workdir, self.metadata = workdir, metadata
        self.tokenizer, self.best_by = tokenizer, best_by
        self.score = _best_so_far(workdir) if resumed else -np.inf
        if not resumed and jax.process_index() == 0:
            shutil.rmtree(workdir / "best", ignore_errors=True)

    def judge(self, step: int, state: TrainState, metrics: dict[str, float]) -> float:
        """The score (higher is better); writes `best/` if it has risen."""
        score = score_of(metrics, self.best_by)
        if score > self.score:
            self.score = score
            self.save("best", weights_of(state), step=step, score=score)
        return score

    def save(self, name: str, params: Any, teacher: Any = None, **source: Any) -> None:
        """Writes the checkpoint folder `name`; every process calls, one writes."""
        params, teacher = on_host(params), on_host(teacher)
        if jax.process_index() == 0:
            save_checkpoint(
                self.workdir / name,
                params,
                dataclasses.replace(self.metadata, source=source),
                teacher=teacher,
                tokenizer=self.tokenizer,
                overwrite=True,
            )
        meet(f"{name} is written")  # their exit waits for minutes only


def score_of(metrics: dict[str, float], best_by: str = "") -> float:
    """What `best` is chosen by, higher is better; losses and ranks count negative.

    Raises:
      ValueError: there is no such metric.
    """
    if not best_by and "loss" not in metrics:
        names = [name for name in SELECTED_BY if name in metrics]
        if "vqa/accuracy" in names:  # of the same answers
            names.remove("qa/accuracy")
        return float(np.mean([metrics[name] for name in names]))
    name = best_by or "loss"
    if name not in metrics:
        raise ValueError(
            f"config.best_by is {name!r}; validation gives {sorted(metrics)}."
        )
    lower = any(word in name for word in LOWER_IS_BETTER)
    return -metrics[name] if lower else metrics[name]


def _best_so_far(workdir: Path) -> float:
    best = workdir / "best"
    return read_metadata(best).source["score"] if best.exists() else -np.inf


def make_evaluation(
    config: RunConfig, task: Task, tokenizer: Tokenizer, mesh: Mesh
) -> Evaluate | None:
    """What measures a state on the validation data; None without such data.

    It is called with the state, and with a function that it calls between batches and
    that may raise.
    """
    if not config.validation.path:
        return None
    if config.task == PRETRAINING:
        assert isinstance(task, Pretraining)
        return _validation_losses(config, task, tokenizer, mesh)
    return _used(config, task, tokenizer, mesh)


def _used(config: RunConfig, task: Task, tokenizer: Tokenizer, mesh: Mesh) -> Evaluate:
    """Answers and captions, or what is found, scored.

    Each process does its share on its devices, as many rows of each at a time as in
    training; all call what is returned together.
    """
    data = config.validation
    opened: Any = open_text_examples if config.task == TEXTS else open_examples
    bad_share = config.batch.max_bad_share
    examples = first(opened(data, bad_share), config.eval_examples)
    parts = config.accumulation * row_shards(mesh)
    rows = max(1, config.batch.batch_size // parts) * len(mesh.local_devices)
    made_of = task.model, None, tokenizer, config.inputs, config.decoding
    predictor = Predictor(
        *(*made_of, rows, config.task, config.rerank, config.objectives.temperatures)
    )

    def measure(state: TrainState, check: Callable[[], None]) -> dict[str, float]:
        its = predictor.replace_params(on_own_devices(weights_of(state)))

        def told(done: int, total: int) -> None:
            check()

        how: dict[str, Any] = {"max_bad_share": bad_share, "progress": told}
        if config.task == RETRIEVAL:
            how["progress"] = lambda what: told
            return retrieve(its, examples, **how)
        if config.task == TEXTS:
            results = evaluate_texts(its, examples, glue_task(data.path), **how)
        else:
            results = evaluate(its, examples, **how)
        return results.flat_metrics()

    return measure


def _validation_losses(
    config: RunConfig, task: Pretraining, tokenizer: Tokenizer, mesh: Mesh
) -> Evaluate:
    """Means of the losses over whole batches of pairs, the same batches every time.

    As large as those of training, if there are so many pairs, and in as many parts:
    contrast and matching depend on what a pair is compared with. Pairs that fill no
    batch are left out.
    """
    bad_share = max(part.batch.max_bad_share for part in config.mixture)
    examples = open_examples(config.validation, bad_share)
    kind = "image" if all_images(examples, bad_share) else "video"
    like = next((p.batch for p in config.mixture if p.kind == kind), config.batch)
    count = min(config.eval_examples or len(examples), len(examples))
    parts = config.accumulation
    rows = min(like.batch_size, count - count % (parts * row_shards(mesh)))
    if rows < 2:
        raise ValueError(
            f"{config.validation.path} gives {count} validation examples; a batch of "
            f"pairs in {parts} parts on {row_shards(mesh)} data x fsdp shards needs "
            "more: give some, or a smaller config.accumulation."
        )
    plain = {"crop_scale": None, "flip": False, "randaugment": None}
    batch = dataclasses.replace(like, batch_size=rows, **plain)
    part = PartConfig("validation", kind, data=config.validation, batch=batch)
    batches = mixture_batches(
        (part,),
        tokenizer,
        config.inputs,
        task.config.vision.image_size,
        config.seed,
        *process_part(mesh),
    )

    @jax.jit
    def losses(params, teacher, queue, batch):
        with on_mesh(mesh):
            loss, output = task.loss(
                params, batch, None, teacher, queue=queue, parts=parts
            )
        return output.metrics | {"loss": loss}

    def measure(state: TrainState, check: Callable[[], None]) -> dict[str, float]:
        batches.set_state({"step": 0})
        found = []
        for _, batch in itertools.islice(batches, count // rows):
            placed = shard_batch(batch, mesh)
            its = losses(weights_of(state), state.teacher, state.queue, placed)
            found.append({name: float(value) for name, value in its.items()})
            check()
        batches.close()
        return {name: float(np.mean([f[name] for f in found])) for name in found[0]}

    return measure


def on_own_devices(tree: Any) -> Any:
    """Whole arrays on each of this process's devices; what lies on one stays."""
    leaves = jax.tree.leaves(tree)
    if not leaves or all(len(leaf.sharding.device_set) == 1 for leaf in leaves):
        return tree
    mesh = leaves[0].sharding.mesh
    own = replicated(mesh.local_devices, len(mesh.local_devices))
    if all(leaf.is_fully_addressable for leaf in leaves):
        return jax.device_put(tree, own)

    def alone(leaf: jax.Array) -> jax.Array:
        parts = [shard.data for shard in leaf.addressable_shards]
        return jax.make_array_from_single_device_arrays(leaf.shape, own, parts)

    return jax.tree.map(alone, _replicate(mesh)(tree))


def on_host(tree: Any) -> Any:
    """Whole numpy arrays; no device holds more than one of them whole at a time."""

    def fetch(leaf: Any) -> np.ndarray:
        if not leaf.is_fully_addressable:
            leaf = _replicate(leaf.sharding.mesh)(leaf).addressable_data(0)
        return np.asarray(leaf)

    return jax.tree.map(fetch, tree)


@functools.cache
def _replicate(mesh: Mesh) -> Callable[[Any], Any]:
    everywhere = NamedSharding(mesh, PartitionSpec())
    return jax.jit(lambda tree: tree, out_shardings=everywhere)
