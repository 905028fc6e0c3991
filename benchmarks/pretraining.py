"""Pretraining on the synthetic world and what it is worth, see docs/pretraining.md.

    python benchmarks/pretraining.py --workdir runs --curves docs/pretraining.png

Runs `configs/pretrain_shapes.py`, searches among held-out clips without any further
training, and fine-tunes by `configs/finetune_shapes.py` beside the quickstart, which
trains from nothing. Running it again goes on where it stopped. Prints tables, and with
`--curves` draws a picture.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib
from measuring import machine
from running import command, evaluated, search, trained

from mplug2_jax.quickstart import BUDGETS, quickstart

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.ticker import LogLocator  # noqa: E402

SETS = ("shapes", "shapes_images", "shapes_texts")
OBJECTIVES = {
    "vlc": "contrast",
    "vlm": "matching",
    "mlm": "words",
    "ilm": "instruction",
}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--workdir", required=True, type=Path)
    add("--curves", type=Path, metavar="PNG")
    add("--counts", default="", help="SPLIT=N,... of each data set")
    add("--clips", type=int, default=100, help="to search among")
    add("--steps", type=int, nargs=2, metavar=("FIRST", "THEN"), help="(as configured)")
    add("--quickstart", choices=BUDGETS, default="default", help="its mode")
    return parser.parse_args()


class Runs:
    """The three runs of one workdir, and the minutes that training took."""

    def __init__(self, workdir: Path):
        self.work, data = workdir, workdir / "data" / "mplug2_data"
        self.places = {name: data / name / "1.0.0" for name in SETS}
        self.pretrained, self.tuned = workdir / "pretrained", workdir / "fine-tuned"
        self.quickstart = workdir / "quickstart"
        self.minutes: dict[str, float] = {}

    @property
    def world(self) -> Path:
        return self.places["shapes"]

    @property
    def scratch(self) -> Path:
        return self.quickstart / "run"

    def train(self, counts: str, steps: tuple[int, int] | None, mode: str) -> None:
        """What was already done is not done again.

        Args:
          counts: clips of each split, as `mplug2 prepare --counts` takes them.
          steps: of pretraining and of fine-tuning; None: as configured.
          mode: of the quickstart.
        """
        for name in SETS:
            given = ("--counts", counts) if counts else ()
            command("prepare", name, "--data-dir", self.work / "data", *given)
        kinds = zip(("video", "image", "text"), self.places.values(), strict=True)
        parts = {f"mixture.{kind}.data.path": place for kind, place in kinds}
        tuning = {"init_from": self.pretrained, "train.path": self.world}
        first, then = [{"steps": number} for number in steps] if steps else [{}, {}]
        self.minutes = {
            "pretraining": trained("pretrain_shapes", self.pretrained, parts | first),
            "fine-tuning": trained("finetune_shapes", self.tuned, tuning | then),
        }
        if not (self.quickstart / "results.json").exists():
            quickstart(self.quickstart, mode)


def curves(runs: Runs, path: Path) -> None:
    """Losses of pretraining, and accuracy in fine-tuning from it and from nothing."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4), dpi=110)
    for name, label in OBJECTIVES.items():
        _plot(left, runs.pretrained, f"train/video/loss_{name}", label)
    left.set(title="pretraining, loss on videos", xlabel="step", yscale="log")
    left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    left.yaxis.set_major_formatter("{x:g}")
    left.yaxis.set_minor_formatter("")
    for run, label in ((runs.tuned, "fine-tuned"), (runs.scratch, "from nothing")):
        _plot(right, run, "train/answer_accuracy", label)
    right.set(title="training on questions, accuracy", xlabel="step", ylim=(0, 1))
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path)


def _plot(axis: Any, run: Path, key: str, label: str) -> None:
    lines = [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
    points = [(line["step"], line[key]) for line in lines if key in line]
    axis.plot(*zip(*points, strict=True), label=label)


def retrieval_table(found: dict[str, float], count: int) -> str:
    lines = [
        f"| among {count} clips | R@1 | R@5 | R@10 | median rank |",
        "|---" * 5 + "|",
    ]
    for direction in ("text_to_video", "video_to_text"):
        shares = [found[f"{direction}/recall_{depth}"] for depth in (1, 5, 10)]
        cells = " | ".join(f"{share:.0%}" for share in shares)
        rank = found[f"{direction}/median_rank"]
        lines.append(f"| {direction.replace('_', ' ')} | {cells} | {rank:g} |")
    return "\n".join(lines)


def answers_table(runs: Runs) -> str:
    tuned = evaluated(runs.tuned, runs.world)
    scratch = json.loads((runs.quickstart / "results.json").read_text())
    rows = {
        "fine-tuned": (runs.minutes["fine-tuning"], tuned),
        "quickstart, from nothing": (scratch["seconds"] / 60, scratch["test"]),
    }
    lines = ["| run | minutes | answers | motion | captions, exact |", "|---" * 5 + "|"]
    for name, (minutes, its) in rows.items():
        qa, exact = its["qa"], its["caption"]["exact_match"]
        motion = qa["by_kind"]["motion"]["accuracy"]
        cells = f"{qa['accuracy']:.1%} | {motion:.1%} | {exact:.1%}"
        lines.append(f"| {name} | {minutes:.1f} | {cells} |")
    return "\n".join(lines)


def benchmark(args: argparse.Namespace) -> None:
    runs = Runs(args.workdir)
    runs.train(args.counts, args.steps, args.quickstart)
    found = search(runs.pretrained, runs.world, args.clips)
    tables = retrieval_table(found, args.clips), answers_table(runs)
    took = f"pretraining: {runs.minutes['pretraining']:.1f} minutes"
    print("", machine("jax"), took, *tables, sep="\n\n")
    if args.curves:
        curves(runs, args.curves)


if __name__ == "__main__":
    benchmark(parse())
