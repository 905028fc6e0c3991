"""The training loop: reads top to bottom, and again after an interruption."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from mplug2_jax.checkpoint.load import Metadata
from mplug2_jax.checkpoint.manager import Progress, StateManager
from mplug2_jax.checkpoint.parts import MOUNT
from mplug2_jax.data.files import local_path
from mplug2_jax.data.templates import CAPTION_INSTRUCTION
from mplug2_jax.planning.chips import of_device
from mplug2_jax.sharding.partition import shard_batch
from mplug2_jax.tasks.base import Task
from mplug2_jax.training.allocator import keep_freed_memory
from mplug2_jax.training.config import PRETRAINING, RunConfig
from mplug2_jax.training.flops import model_flops
from mplug2_jax.training.interrupts import Interrupts, Stopped, interrupts
from mplug2_jax.training.metrics import MetricWriter
from mplug2_jax.training.optimizer import make_optimizer
from mplug2_jax.training.profiling import ProfileWindow
from mplug2_jax.training.record import check_workdir, claim_workdir
from mplug2_jax.training.start import (
    Source,
    make_task,
    open_mesh,
    open_vocabulary,
    starting_weights,
    with_classes,
)
from mplug2_jax.training.step import (
    TrainState,
    abstract_state,
    create_state,
    make_step,
)
from mplug2_jax.training.validation import Best, make_evaluation, weights_of


class DivergedError(ValueError):
    """Too many steps in a row had no finite loss or gradient."""


def train(config: RunConfig, workdir: str | Path) -> dict[str, float]:
    """Trains, or goes on where an earlier call with the same workdir stopped.

    Writes under `workdir`: `run.json`, `tokenizer/`, `metrics.jsonl`, `tensorboard/`,
    resumable states in `checkpoints/`, and the checkpoint folders `final/` and, with
    validation data, `best/`. With several processes all call it, one writes.

    A SIGTERM or SIGINT ends it after the step, or the batch of validation data, that is
    under way; the time it takes is that and one save.

    Returns:
      The last evaluation's metrics, or without validation data the last losses.

    Raises:
      ValueError: the configuration, the data or the starting checkpoint do not fit.
      OSError: the workdir cannot be written, or data are missing.
      DivergedError: see `RunConfig.max_skipped`.
      Stopped: a signal came; all that was done is saved.
    """
    _set_up_process(config)
    with interrupts() as asked:
        run = _Run(config, local_path(workdir, MOUNT), asked)
        state, progress = run.first_state()
        return run.loop(state, progress)


class _Run:
    """Everything a run is made of but its state."""

    def __init__(self, config: RunConfig, workdir: Path, asked: Interrupts):
        self.config, self.workdir, self.asked = config, workdir, asked
        check_workdir(workdir)
        config, examples = with_classes(config)
        self.config = config
        self.mesh = open_mesh(config)
        tokenizer = open_vocabulary(config)
        self.task = make_task(config, tokenizer, self.mesh)
        self.source = Source(config, self.task, tokenizer, self.mesh, examples)
        self.evaluation = make_evaluation(config, self.task, tokenizer, self.mesh)
        self.optimizer = make_optimizer(config.optimizer, self.source.steps)
        self.layout: dict[str, Any] = {"ema_decay": config.ema_decay, "mesh": self.mesh}
        inputs = dataclasses.asdict(config.inputs)
        if config.task == PRETRAINING:
            inputs["instruction"] = CAPTION_INSTRUCTION
        metadata = Metadata(
            *(self.task.config, self.task.modules),
            inputs=inputs,
            task=config.task,
            decoding=dataclasses.asdict(config.decoding),
            rerank=config.rerank,
            temperatures=config.objectives.temperatures,
        )
        about = {
            "config": dataclasses.asdict(config),
            "checkpoint": json.loads(metadata.to_json()),
        }
        self.manager = StateManager(workdir / "checkpoints", config.keep, about)
        resumed = self.manager.latest is not None
        claim_workdir(workdir, config, tokenizer, resumed)
        judging = workdir, metadata, tokenizer, config.best_by
        self.best = Best(*judging, resumed=resumed)

    def first_state(self) -> tuple[TrainState, Progress]:
        """The newest saved state, else the starting weights, else random ones.

        On resume: 1. the newest whole state, onto this run's mesh; 2. the position of
        the data and the examples seen, which are stored with it; 3. (`loop`) metrics of
        later steps are dropped; 4. an evaluation that a signal cut short is done.
        Random numbers follow from the step.
        """
        config = self.config
        made_of = self.task, self.optimizer, config.distillation
        if self.manager.latest is not None:
            abstract = abstract_state(*made_of, **self.layout)
            state, progress = self.manager.restore(abstract)
            self.source.batches.set_state(progress.position)
            return state, progress
        params, teacher = starting_weights(config, self.task)
        key = jax.random.key(config.seed)
        state = create_state(
            *made_of, key, params=params, teacher=teacher, **self.layout
        )
        return state, Progress()

    def loop(self, state: TrainState, progress: Progress) -> dict[str, float]:
        """Steps until the last one, or until a signal comes."""
        config, steps, asked = self.config, self.source.steps, self.asked
        start, rng = int(state.step), jax.random.key(config.seed)
        advance = self._compiled_step()
        flops = _flop_counter(config, self.task, self.optimizer, self.mesh)
        writer = MetricWriter(
            self.workdir, steps, start, progress.seen, _peak(self.mesh)
        )
        window = ProfileWindow.parse(config.profile, self.workdir / "profile")
        results: dict[str, float] = {}
        before: Mapping[str, Any] = {}
        batches = iter(self.source)
        asked.deferred = True
        if start:
            writer.say(f"resumed at step {start} of {steps}")

        def due(step: int, every: int) -> bool:
            return step == steps or (every > 0 and step % every == 0)

        try:
            if progress.unevaluated and self.evaluation:
                results, _ = self._evaluate(start, state, progress, writer)
                if asked.reached():
                    raise Stopped(asked.signum or 0, start)
            for step in range(start + 1, steps + 1):
                window.before(step)
                kind, batch = next(batches)
                batch = shard_batch(batch, self.mesh)
                state, metrics = advance(state, batch, rng)
                writer.add(kind, metrics, config.batch_sizes[kind], flops(kind, batch))
                window.after(step, metrics)
                # The step before is done by now; asking for this one would wait.
                _check_finite(step - 1, before, config.max_skipped)
                before, score = metrics, None
                if due(step, config.log_every):
                    results = writer.progress(step)
                if self.evaluation and due(step, config.eval_every):
                    results, score = self._evaluate(step, state, progress, writer)
                stop = asked.reached()
                if stop or due(step, config.save_every):
                    self._save(step, state, progress, writer, score)
                if stop:
                    writer.progress(step)
                    raise Stopped(asked.signum or 0, step)
            _check_finite(steps, before, config.max_skipped)
        finally:
            window.close()
            self.manager.close()
            writer.close()
            self.source.batches.close()
        self.best.save("final", weights_of(state), state.teacher)
        return results

    def _compiled_step(self) -> Callable[..., tuple[TrainState, dict[str, Any]]]:
        config = self.config
        return make_step(
            *(self.task, self.optimizer, config.distillation, config.accumulation),
            **self.layout,
        )

    def _evaluate(
        self, step: int, state: TrainState, progress: Progress, writer: MetricWriter
    ) -> tuple[dict[str, float], float | None]:
        """Metrics and score; nothing, to be done on resume, if a signal comes.

        So it is where the metrics have no score: what was trained is saved.
        """
        assert self.evaluation is not None
        progress.unevaluated = True
        with writer.paused():
            try:
                metrics = self.evaluation(state, self.asked.check)
            except Stopped:
                return {}, None
            try:
                score = self.best.judge(step, state, metrics)
            except ValueError as error:
                self._save(step, state, progress, writer)
                raise ValueError(
                    f"{error} Step {step} is saved; mend this and start again, and the "
                    "run goes on from there."
                ) from error
        progress.unevaluated = False
        metrics = metrics | {"score": score}
        writer.write(step, {f"validation/{k}": v for k, v in metrics.items()})
        shown = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        writer.say(f"validation at step {step}: {shown}")
        return metrics, score

    def _save(
        self,
        step: int,
        state: TrainState,
        progress: Progress,
        writer: MetricWriter,
        score: float | None = None,
    ) -> None:
        """Saves the state with its place in the data."""
        progress.position = self.source.batches.get_state()
        progress.seen = dict(writer.seen)
        self.manager.save(step, state, progress, score)


def _check_finite(step: int, metrics: Mapping[str, Any], limit: int) -> None:
    count = int(metrics.get("skipped_in_a_row", 0))
    if limit and count >= limit:
        raise DivergedError(
            f"{count} steps in a row, up to step {step}, had no finite loss or "
            f"gradient; config.max_skipped is {limit}, and none of them changed a "
            "parameter. Lower the learning rate or look at the data, and start in "
            "another --workdir (config.init_from takes this one's last state)."
        )


def _peak(mesh: Mesh) -> float | None:
    """FLOP/s of all the mesh's devices together, where the kind is known."""
    chip = of_device(mesh.devices.flat[0])
    return chip and chip.flops * mesh.size


def _flop_counter(
    config: RunConfig, task: Task, optimizer: Any, mesh: Mesh
) -> Callable[[str, Any], float]:
    """`model_flops` by the kind of a batch, counted once; 0 if nobody asks."""
    known: dict[str, float] = {}
    if _peak(mesh) is None:
        return lambda kind, batch: 0.0

    def flops(kind: str, batch: Any) -> float:
        if kind not in known:
            known[kind] = model_flops(task, optimizer, config.distillation, batch)
        return known[kind]

    return flops


def _set_up_process(config: RunConfig) -> None:
    if config.compilation_cache == "off":
        jax.config.update("jax_enable_compilation_cache", False)
    elif config.compilation_cache:
        jax.config.update("jax_compilation_cache_dir", config.compilation_cache)
    keep_freed_memory()  # before the backend starts threads with heaps of their own
    if jax.default_backend() != "cpu":
        keep_freed_memory(False)
