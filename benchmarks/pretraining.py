"""Pretraining on the synthetic world and what it is worth, see docs/pretraining.md.

    python benchmarks/pretraining.py --workdir runs --curves docs/pretraining.png

Runs `configs/pretrain_shapes.py`, searches among held-out clips without any further
training, and fine-tunes by `configs/finetune_shapes.py` beside the same training from
nothing. Running it again goes on where it stopped. Prints tables; `--curves` is for a
picture.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib
from measuring import machine
from running import CONFIGS, command, search, trained

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
    add("--steps", type=int, nargs=2, default=(2000, 1500), metavar=("FIRST", "THEN"))
    return parser.parse_args()


def answer(checkpoint: Path, world: Path, output: Path) -> dict[str, Any]:
    """Accuracies of answers on all test clips."""
    where = ("--annotations", world, "--batch-size", 50, "--output", output)
    command("evaluate", "--checkpoint", checkpoint, *where)
    return json.loads(output.read_text())["metrics"]


def curves(runs: dict[str, Path], path: Path) -> None:
    """Losses of pretraining, and accuracy in fine-tuning from it and from nothing."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4), dpi=110)
    for name, label in OBJECTIVES.items():
        _plot(left, runs["pretrained"], f"train/video/loss_{name}", label)
    left.set(title="pretraining, loss on videos", xlabel="step", yscale="log")
    left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    left.yaxis.set_major_formatter("{x:g}")
    left.yaxis.set_minor_formatter("")
    answering = ("fine-tuned", "from nothing")
    for name in (n for n in answering if (runs[n] / "metrics.jsonl").exists()):
        _plot(right, runs[name], "train/answer_accuracy", name)
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


class Runs:
    """The four runs of one workdir: their folders, steps and minutes."""

    def __init__(self, workdir: Path, steps: tuple[int, int]):
        self.work, data = workdir, workdir / "data" / "mplug2_data"
        self.places = {name: data / name / "1.0.0" for name in SETS}
        pretraining, full = steps
        self.steps = {
            "pretrained": pretraining,
            "fine-tuned": full // 2,
            "from nothing": full,
            "from nothing, half": full // 2,
        }
        self.folders = {
            n: workdir / n.replace(",", "").replace(" ", "_") for n in self.steps
        }
        self.minutes: dict[str, float] = {}

    @property
    def world(self) -> Path:
        return self.places["shapes"]

    def prepare(self, counts: str) -> None:
        for name in SETS:
            given = ("--counts", counts) if counts else ()
            command("prepare", name, "--data-dir", self.work / "data", *given)

    def train(self) -> None:
        kinds = zip(("video", "image", "text"), self.places.values(), strict=True)
        parts = {f"mixture.{kind}.data.path": place for kind, place in kinds}
        self._train("pretrained", "pretrain_shapes", parts)
        blank = {"init_from": "", "vocab": CONFIGS / "shapes_words.txt"}
        for name in ("fine-tuned", "from nothing", "from nothing, half"):
            its = (
                blank
                if "nothing" in name
                else {"init_from": self.folders["pretrained"]}
            )
            self._train(name, "finetune_shapes", {**its, "train.path": self.world})

    def _train(self, name: str, config: str, changed: dict[str, Any]) -> None:
        changed = changed | {"steps": self.steps[name]}
        self.minutes[name] = trained(config, self.folders[name], changed)


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
    lines = [
        "| run | steps | minutes | answers | motion | captions, exact |",
        "|---" * 6 + "|",
    ]
    for name, steps in runs.steps.items():
        its = answer(runs.folders[name], runs.world, runs.folders[name] / "test.json")
        qa, exact = its["qa"], its["caption"]["exact_match"]
        motion = qa["by_kind"]["motion"]["accuracy"]
        cells = f"{qa['accuracy']:.1%} | {motion:.1%} | {exact:.1%}"
        lines.append(f"| {name} | {steps} | {runs.minutes[name]:.1f} | {cells} |")
    return "\n".join(lines)


def benchmark(args: argparse.Namespace) -> None:
    runs = Runs(args.workdir, args.steps)
    runs.prepare(args.counts)
    runs.train()
    found = search(runs.folders["pretrained"], runs.world, args.clips)
    tables = retrieval_table(found, args.clips), answers_table(runs)
    print("", machine("jax"), *tables, sep="\n\n")
    if args.curves:
        curves(runs.folders, args.curves)


if __name__ == "__main__":
    benchmark(parse())
