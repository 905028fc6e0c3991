"""The training loop: reads top to bottom, and again after an interruption."""

import contextlib
import ctypes
import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mplug2_jax.checkpoint.load import (
    Metadata,
    has_teacher,
    load_checkpoint,
    read_metadata,
    save_checkpoint,
)
from mplug2_jax.checkpoint.manager import StateManager
from mplug2_jax.checkpoint.parts import find_checkpoint
from mplug2_jax.data.pipeline import all_images, epochs_to_steps, training_batches
from mplug2_jax.data.sources import Example, read_jsonl
from mplug2_jax.data.tokenizers import Tokenizer, load_tokenizer, open_tokenizer
from mplug2_jax.evaluation.runner import evaluate
from mplug2_jax.models.config import MPlug2Config
from mplug2_jax.predictor import Predictor
from mplug2_jax.tasks import TASKS
from mplug2_jax.tasks.base import Task
from mplug2_jax.training.config import DataConfig, RunConfig
from mplug2_jax.training.metrics import MetricWriter
from mplug2_jax.training.optimizer import make_optimizer
from mplug2_jax.training.step import init_state, make_step

# `best/` has the highest mean of these, of those that the validation data gives.
SELECTED_BY = ("qa/accuracy", "caption/cider", "caption/exact_match")
RUN = "run.json"


def train(config: RunConfig, workdir: str | Path) -> dict[str, float]:
    """Trains, or goes on where an earlier call with the same workdir stopped.

    Writes under `workdir`: `config.json`, `metrics.jsonl`, `tensorboard/`, resumable
    states in `checkpoints/`, and the checkpoint folders `final/` and, with validation
    data, `best/`.

    Returns:
      The last evaluation's metrics, or without validation data the last losses.

    Raises:
      ValueError: the configuration, the data or the starting checkpoint do not fit.
    """
    workdir = Path(workdir)
    if jax.default_backend() == "cpu":
        _keep_freed_memory()
    examples = _examples(config.train)
    validation = _examples(config.validation)
    tokenizer = _tokenizer(config)
    images = all_images(examples)
    task, params, teacher = _start(config, tokenizer, is_video=not images)
    _record_config(config, workdir)
    steps = config.steps or epochs_to_steps(config.epochs, examples, config.batch)
    optimizer = make_optimizer(config.optimizer, steps)
    batches = training_batches(
        examples,
        tokenizer,
        config.inputs,
        config.batch,
        task.config.vision.image_size,
        config.seed,
    )
    evaluator = _Evaluator(config, task, tokenizer, validation, workdir)

    # On resume: 1. the state as it would start, 2. the newest saved one in its place,
    # 3. the data iterator's position with it. Random numbers follow from the step.
    state = init_state(params, optimizer, config.distillation, teacher)
    manager = StateManager(workdir / "checkpoints", config.keep)
    if manager.latest is not None:
        state = manager.restore(state, batches)
        print(f"resumed at step {manager.latest} of {steps}")
    start = int(state.step)
    writer = MetricWriter(workdir, steps, start, config.batch.batch_size)
    step_fn = make_step(task, optimizer, config.distillation, config.accumulation)
    rng = jax.random.key(config.seed)
    recent: list[Any] = []

    def due(step: int, every: int) -> bool:
        return step == steps or (every > 0 and step % every == 0)

    results: dict[str, float] = {}

    try:
        for step in range(start + 1, steps + 1):
            state, metrics = step_fn(state, next(batches), rng)
            recent.append(metrics)
            if due(step, config.log_every):
                results = _mean(recent)
                recent.clear()
                writer.progress(step, results)
            if due(step, config.save_every):
                manager.save(step, state, batches)
            if validation and due(step, config.eval_every):
                results = evaluator(step, state.params)
                writer.write(step, {f"validation/{k}": v for k, v in results.items()})
                writer.pause()
    finally:
        manager.close()
        writer.close()
    evaluator.save("final", state.params, state.teacher)
    return results


def _keep_freed_memory() -> None:
    """Lets glibc reuse a step's buffers instead of returning them to the kernel.

    XLA allocates its temporaries anew each step; fetching and zeroing their pages took
    a fifth of the tiny preset's CPU time. Elsewhere than on glibc nothing happens.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        # malloc.h: M_ARENA_MAX, M_MMAP_MAX, M_TRIM_THRESHOLD
        for option, value in ((-8, 1), (-4, 0), (-1, 2**31 - 1)):
            mallopt(option, value)


def _mean(metrics: list[dict[str, Any]]) -> dict[str, float]:
    return {key: float(np.mean([m[key] for m in metrics])) for key in metrics[0]}


def _examples(data: DataConfig) -> list[Example]:
    return read_jsonl(data.path, data.media or None) if data.path else []


def _tokenizer(config: RunConfig) -> Tokenizer:
    if config.init_from and not config.vocab:
        stored = find_checkpoint(config.init_from) / "tokenizer"
        if stored.is_dir():
            return load_tokenizer(stored)
    return open_tokenizer(config.vocab)


def _start(
    config: RunConfig, tokenizer: Tokenizer, is_video: bool
) -> tuple[Task, Any, Any]:
    """The task, parameters from the checkpoint or drawn at random, and a teacher.

    The teacher is the checkpoint's momentum copy, where it has one and it is wanted.
    """
    task_class = TASKS[config.task]
    options: dict[str, Any] = {"is_video": is_video}
    if "prompt_length" in {f.name for f in dataclasses.fields(task_class)}:
        options["prompt_length"] = config.inputs.prompt_length(tokenizer)
    if not config.init_from:
        text = {"vocab_size": tokenizer.vocab_size}
        task = task_class(config.model.replace(text=text), **options)
        return task, jax.jit(task.init)(jax.random.key(config.seed)), None
    modules = task_class(config.model, **options).modules
    folder = find_checkpoint(config.init_from)
    params, metadata = load_checkpoint(folder, modules)
    if tokenizer.vocab_size != metadata.config.text.vocab_size:
        raise ValueError(
            f"The tokenizer has {tokenizer.vocab_size} entries, the checkpoint "
            f"{config.init_from} {metadata.config.text.vocab_size}; give the "
            "vocabulary it was trained with (--config.vocab=PATH)."
        )
    teacher = None
    if config.distillation.weight > 0 and has_teacher(folder):
        teacher, _ = load_checkpoint(folder, modules, tree="teacher")
    task = task_class(_trained_as(metadata.config, config.model), **options)
    return task, params, teacher


def _trained_as(stored: MPlug2Config, wanted: MPlug2Config) -> MPlug2Config:
    """The stored shapes with the run's numerics, dropout and drop path."""
    text = wanted.text
    return stored.replace(
        numerics=wanted.numerics,
        vision={"drop_path": wanted.vision.drop_path},
        text={"dropout": text.dropout, "attention_dropout": text.attention_dropout},
    )


def _record_config(config: RunConfig, workdir: Path) -> None:
    """Writes the configuration; a workdir that began with another one is an error."""
    path, values = workdir / RUN, dataclasses.asdict(config)
    if path.exists():
        before = _flat(json.loads(path.read_text()))
        for key, value in _flat(json.loads(json.dumps(values))).items():
            if before.get(key) != value:
                raise ValueError(
                    f"{workdir} holds a run with config.{key}={before.get(key)!r}, now "
                    f"it is {value!r}; set it back, or choose another --workdir."
                )
    workdir.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=1))


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in values.items():
        nested = isinstance(value, dict)
        flat |= _flat(value, f"{prefix}{key}.") if nested else {prefix + key: value}
    return flat


class _Evaluator:
    """Scores parameters on the validation data and keeps the best as a checkpoint."""

    def __init__(self, config, task, tokenizer, examples, workdir):
        self.workdir, self.tokenizer = workdir, tokenizer
        self.examples = examples[: config.eval_examples or None]
        self.metadata = Metadata(
            task.config, task.modules, inputs=dataclasses.asdict(config.inputs)
        )
        self.predictor = Predictor(
            task.model,
            None,
            tokenizer,
            config.inputs,
            config.decoding,
            batch_size=config.batch.batch_size // config.accumulation,
        )
        self.best = _best_so_far(workdir)

    def __call__(self, step: int, params: Any) -> dict[str, float]:
        """Evaluates, prints, and writes `best/` if the score has risen."""
        predictor = self.predictor.replace_params(params)
        metrics = evaluate(predictor, self.examples).flat_metrics()
        score = float(np.mean([metrics[k] for k in SELECTED_BY if k in metrics]))
        shown = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        print(f"validation at step {step}: {shown}", flush=True)
        if score > self.best:
            self.best = score
            self.save("best", params, step=step, score=score)
        return {**metrics, "score": score}

    def save(self, name: str, params: Any, teacher: Any = None, **source: Any) -> None:
        """Writes the checkpoint folder `name` of the workdir."""
        metadata = dataclasses.replace(self.metadata, source=source)
        save_checkpoint(
            self.workdir / name,
            params,
            metadata,
            teacher=teacher,
            tokenizer=self.tokenizer,
            overwrite=True,
        )


def _best_so_far(workdir: Path) -> float:
    best = workdir / "best"
    return read_metadata(best).source["score"] if best.exists() else -np.inf
