"""The quickstart: a world made on the spot, a model trained from nothing, a report.

No downloads and no GPU. Clips of the synthetic world (`data/shapes.py`) are written as
mp4 files with their annotations, the `tiny` preset learns to caption them and to answer
questions, and is scored on clips it never saw.
"""

import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any

from mplug2_jax.data import shapes
from mplug2_jax.data.inputs import InputConfig
from mplug2_jax.data.pipeline import BatchConfig
from mplug2_jax.data.sources import read_jsonl
from mplug2_jax.data.tokenizers import WordPieceTokenizer
from mplug2_jax.evaluation.report import write_report
from mplug2_jax.evaluation.results import Results
from mplug2_jax.evaluation.runner import evaluate
from mplug2_jax.models.config import preset
from mplug2_jax.predictor import Decoding, Predictor
from mplug2_jax.training.config import DataConfig, RunConfig
from mplug2_jax.training.loop import train
from mplug2_jax.training.optimizer import OptimizerConfig

FRAMES_PER_CLIP, SIZE = 9, 48  # odd: the middle frame is the middle of the motion


@dataclasses.dataclass(frozen=True)
class Budget:
    """How much the quickstart makes and trains.

    Attributes:
      train_clips, test_clips: clips made; each harder split has `test_clips` too.
      steps: optimizer steps.
    """

    train_clips: int
    test_clips: int
    steps: int


BUDGETS = {
    "default": Budget(train_clips=8000, test_clips=300, steps=1500),
    "full": Budget(train_clips=20000, test_clips=500, steps=5000),
    "smoke": Budget(train_clips=64, test_clips=12, steps=20),
}
HARDER = ("unseen_pairs", "order")


def run_config(budget: Budget, data: Path, vocab: Path) -> RunConfig:
    """The training run: caption and all questions of a clip from one encoding."""
    return RunConfig(
        task="caption_and_answer",
        model=preset("tiny"),
        train=DataConfig(str(data / "train.jsonl")),
        vocab=str(vocab),
        inputs=InputConfig(
            num_frames=4,
            caption_length=20,
            question_length=10,
            answer_length=3,
            prompt="",
        ),
        batch=BatchConfig(
            batch_size=32,
            captions_per_video=1,
            questions_per_video=6,
            crop_scale=None,
            flip=False,
            randaugment=None,
            keep_clips=True,
        ),
        optimizer=OptimizerConfig(
            learning_rate=1e-3,
            vision_learning_rate=1e-3,
            b2=0.98,
            warmup_steps=100,
            end_learning_rate=1e-5,
            clip_norm=1.0,
        ),
        steps=budget.steps,
        log_every=50,
        save_every=500,
        decoding=Decoding(beam_size=3, min_caption_length=1),
    )


def quickstart(workdir: str | Path, mode: str = "default") -> dict[str, Any]:
    """Makes the world, trains, evaluates, and writes `workdir/report.html`.

    Args:
      workdir: folder for everything; a run that was stopped goes on.
      mode: a key of `BUDGETS`.

    Returns:
      The report's numbers: per split the metrics, and the seconds it all took.
    """
    start, budget, workdir = time.monotonic(), BUDGETS[mode], Path(workdir)
    data, vocab = workdir / "data", workdir / "tokenizer"
    _make_world(budget, data)
    WordPieceTokenizer.from_words(shapes.vocabulary()).save(vocab)
    config = run_config(budget, data, vocab)
    print(f"training {budget.steps} steps", flush=True)
    train(config, workdir / "run")
    predictor = Predictor.from_checkpoint(workdir / "run" / "final", batch_size=50)
    results = {"test": _score(predictor, data, "test")}
    results["image only"] = _score(predictor, data, "test", single_frame=True)
    for split in HARDER:
        results[split] = _score(predictor, data, split)
    seconds = time.monotonic() - start
    summary = (
        f"{budget.steps} training steps on {budget.train_clips} synthetic clips; all "
        f"in all {seconds / 60:.1f} minutes on {os.cpu_count()} CPU cores."
    )
    write_report(
        workdir / "report.html",
        results,
        read_jsonl(data / "test.jsonl"),
        workdir / "run" / "metrics.jsonl",
        summary,
    )
    numbers = {name: result.metrics for name, result in results.items()}
    (workdir / "results.json").write_text(
        json.dumps({"seconds": seconds, **numbers}, indent=1)
    )
    print(f"done in {seconds / 60:.1f} min: {workdir / 'report.html'}")
    return {"seconds": seconds, **numbers}


def _make_world(budget: Budget, data: Path) -> None:
    counts = {"train": budget.train_clips}
    counts |= dict.fromkeys(("test", *HARDER), budget.test_clips)
    for split, count in counts.items():
        if not (data / f"{split}.jsonl").exists():
            print(f"rendering {count} clips: {split}", flush=True)
            shapes.write_dataset(data, split, count, FRAMES_PER_CLIP, SIZE)


def _score(predictor: Predictor, data: Path, split: str, **options) -> Results:
    results = evaluate(predictor, read_jsonl(data / f"{split}.jsonl"), **options)
    caption, answers = results.metrics["caption"], results.metrics["qa"]
    kinds = "  ".join(f"{k} {v['accuracy']:.0%}" for k, v in answers["by_kind"].items())
    image = " (image only)" if options.get("single_frame") else ""
    print(
        f"{split}{image}: answers {answers['accuracy']:.1%} ({kinds}), captions exact "
        f"{caption['exact_match']:.1%}",
        flush=True,
    )
    return results
