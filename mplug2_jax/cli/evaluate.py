"""Scores a checkpoint on annotated videos and images.

    mplug2 evaluate --checkpoint runs/mine --annotations test.jsonl
    mplug2 evaluate --checkpoint runs/mine --annotations test.jsonl --task qa \\
        --media-dir videos --output results.json

Captions: BLEU, ROUGE-L, CIDEr and exact match against all references of a video.
Questions: exact match of the answer, overall and by the questions' "kind". All numbers
are printed times 100, as papers have them. Media that cannot be read are reported and
count nowhere; the exit status is then 1.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mplug2_jax.cli import options

if TYPE_CHECKING:
    from mplug2_jax.evaluation.runner import Results
    from mplug2_jax.predictor import Predictor

COUNTS = ("n",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what the command accepts."""
    options.add_model_arguments(parser)
    add = parser.add_argument_group("data").add_argument
    add("--annotations", required=True, metavar="FILE", help="JSON lines")
    add(
        "--media-dir",
        metavar="DIR",
        help="folder the media names are relative to (default: the annotations' own)",
    )
    add(
        "--task",
        choices=("caption", "qa", "all"),
        default="all",
        help="all (default): what the annotations and the checkpoint allow",
    )
    add(
        "--candidates",
        metavar="FILE",
        help="possible answers, one per line: the likeliest counts",
    )
    add("--limit", type=int, metavar="N", help="only the first N media")
    add(
        "--single-frame",
        action="store_true",
        help="show each video's middle frame only, as often as it has frames",
    )
    add("--output", metavar="FILE", help="write metrics and every prediction as JSON")
    options.add_decoding_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Prints a table; 1 if a medium could not be used.

    Raises:
      ValueError, OSError: checkpoint or annotations cannot be used.
    """
    from mplug2_jax.data.sources import read_jsonl
    from mplug2_jax.evaluation.runner import evaluate

    if args.limit is not None and args.limit < 1:
        raise ValueError(f"--limit is {args.limit}; it must be >= 1.")
    examples = read_jsonl(args.annotations, args.media_dir)[: args.limit]
    candidates = options.read_lines(args.candidates) if args.candidates else None
    task = None if args.task == "all" else args.task
    predictor = options.load_predictor(args, task, options.decoding_of(args))
    results = evaluate(
        predictor,
        examples,
        None if task is None else (task,),
        candidates=candidates,
        single_frame=args.single_frame,
        progress=Progress(sys.stderr),
    )
    print(table(results))
    if args.output:
        _write(Path(args.output), args, predictor, results)
    for name, reason in results.skipped.items():
        print(f"mplug2 evaluate: left out {name}: {reason}", file=sys.stderr)
    return 1 if results.skipped else 0


def table(results: "Results") -> str:
    """The metrics, one per line."""
    rows = []
    for name, value in results.flat_metrics().items():
        is_count = name.rsplit("/", 1)[-1] in COUNTS
        rows.append((name, f"{value}" if is_count else f"{100 * value:.2f}"))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{width}}  {value:>8}" for name, value in rows)


class Progress:
    """Rewrites one line with items done, rate and time left; on files, few lines."""

    def __init__(self, stream, clock=time.monotonic):
        self.stream, self.clock = stream, clock
        self.start = self.shown = clock()
        self.every, self.end = (0.5, "\r") if stream.isatty() else (30.0, "\n")

    def __call__(self, done: int, total: int) -> None:
        now = self.clock()
        if done < total and now - self.shown < self.every:
            return
        self.shown = now
        rate = done / max(now - self.start, 1e-9)
        left = _duration((total - done) / rate) if rate else "?"
        line = f"{done}/{total} media, {rate:.1f}/s, {left} left"
        end = "\n" if done == total else self.end
        print(f"{line:50}", end=end, file=self.stream, flush=True)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _write(
    path: Path, args: argparse.Namespace, predictor: "Predictor", results: "Results"
) -> None:
    from dataclasses import asdict

    from mplug2_jax.checkpoint.staging import staged

    run: dict[str, Any] = {
        "checkpoint": args.checkpoint,
        "annotations": args.annotations,
        "single_frame": args.single_frame,
        "candidates": args.candidates,
        "inputs": asdict(predictor.inputs),
        "decoding": asdict(predictor.decoding),
    }
    with staged(path, overwrite=True) as partial:
        partial.write_text(json.dumps(run | results.to_dict(), indent=1) + "\n")
