"""Commands and training runs of `mplug2` as parts of a benchmark."""

import json
import time
from pathlib import Path
from typing import Any

from mplug2_jax.cli.main import main
from mplug2_jax.data.opening import DataConfig, open_examples
from mplug2_jax.evaluation.retrieval import retrieve
from mplug2_jax.predictor import Predictor

CONFIGS = Path(__file__).parents[1] / "configs"


def command(*arguments: Any) -> None:
    """One command of `mplug2`; its failure ends the benchmark."""
    if status := main([str(argument) for argument in arguments]):
        raise SystemExit(status)


def search(checkpoint: Path, world: Path, count: int) -> dict[str, float]:
    """Retrieval among the first `count` test clips that differ in their captions."""
    examples = open_examples(DataConfig(str(world), split="test"))
    distinct = {example.captions[0]: example for example in reversed(examples)}
    chosen = list(distinct.values())[::-1][:count]
    if len(chosen) < count:
        raise SystemExit(f"only {len(chosen)} captions differ; make more clips")
    return retrieve(Predictor.from_checkpoint(checkpoint, batch_size=50), chosen)


def evaluated(checkpoint: Path, data: Path, *options: Any) -> dict[str, Any]:
    """Metrics on all test examples, by task; everything is kept in `test.json`."""
    output = checkpoint / "test.json"
    where = ("--annotations", data, "--batch-size", 50, "--output", output)
    command("evaluate", "--checkpoint", checkpoint, *where, *options)
    return json.loads(output.read_text())["metrics"]


def trained(config: str, workdir: Path, changed: dict[str, Any]) -> float:
    """Minutes of a training run, kept in `workdir`; what is done is not done again.

    Of a run that was stopped they are those of what was left of it.

    Args:
      config: a file's name under `configs/`.
      changed: values of the configuration by name.
    """
    kept = workdir / "minutes.json"
    if not kept.exists():
        start = time.monotonic()
        overrides = [f"--config.{name}={value}" for name, value in changed.items()]
        path = CONFIGS / f"{config}.py"
        command("train", "--config", path, "--workdir", workdir, *overrides)
        if not (workdir / "final").exists():
            raise SystemExit(f"{workdir} was stopped; the same command goes on")
        kept.write_text(json.dumps((time.monotonic() - start) / 60))
    return json.loads(kept.read_text())
