"""Every task on the synthetic world, from one pretraining, see docs/tasks.md.

    python benchmarks/tasks.py --workdir runs/tasks --data-dir data \\
        --pretrained runs/pretrain_shapes

Fine-tunes each task by its file under `configs/` and scores it on the test split,
beside chance. With --compare the same is done, with fewer steps, from three starts:
joint pretraining, pretraining on the task's own kind of data alone, and nothing; the
two pretrainings take equally many steps. Running it again goes on where it stopped.
"""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from measuring import machine
from running import CONFIGS, command, evaluated, search, trained

WAYS = ("text_to_video", "video_to_text")
KINDS = {"video": "shapes", "image": "shapes_images", "text": "shapes_texts"}


@dataclasses.dataclass(frozen=True)
class Row:
    """A task of the table.

    Attributes:
      config: its file under `configs/`.
      kind: of the media it reads.
      data: prepared data set.
      metrics: shown, of those that `mplug2 evaluate` gives; the first one is compared.
      chance: of the first metric, in percent.
      options: of `mplug2 evaluate`.
      clips: to search among, with captions that differ; 0: the task is no search.
    """

    name: str
    config: str
    kind: str
    data: str
    metrics: tuple[str, ...]
    chance: str
    options: tuple[str, ...] = ()
    clips: int = 0


ROWS = (
    Row(
        *("retrieval among 100 clips", "retrieval_shapes", "video", "shapes"),
        tuple(f"{way}/recall_{k}" for k in (1, 5) for way in WAYS),
        *("1", (), 100),
    ),
    Row(
        *("grounding", "grounding_shapes", "image", "shapes_boxes"),
        *(("grounding/accuracy_50", "grounding/mean_iou"), "52"),
    ),
    Row(
        *("action recognition", "motion_shapes", "video", "shapes_motion"),
        *(("classification/accuracy",), "25"),
    ),
    Row(
        *("image classification", "things_shapes", "image", "shapes_things"),
        *(("classification/accuracy",), "5"),
    ),
    Row(
        *("text entailment", "entailment_shapes", "text", "shapes_entailment"),
        *(("text_classification/accuracy",), "50"),
    ),
    Row(
        *("entailment over clips", "pairs_shapes", "video", "shapes_pairs"),
        *(("pairs/accuracy",), "50"),
    ),
    Row(
        *("statements about two images", "couples_shapes", "image", "shapes_couples"),
        *(("pairs/accuracy",), "50"),
    ),
    Row(
        *("VQA, soft accuracy", "vqa_shapes", "image", "shapes_votes"),
        *(("vqa/accuracy", "qa/accuracy"), "52"),
    ),
    Row(
        *("captioning by instruction", "instruction_shapes", "video", "shapes"),
        *(("caption/exact_match", "caption/cider"), "0", ("--task", "caption")),
    ),
    Row(
        *("captioning in the released form", "caption_shapes", "video", "shapes"),
        *(("caption/exact_match", "caption/cider"), "0", ("--task", "caption")),
    ),
)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--workdir", required=True, type=Path)
    add("--data-dir", required=True, type=Path, help="of the prepared sets")
    add("--pretrained", type=Path, help="workdir of configs/pretrain_shapes.py")
    add("--compare", action="store_true", help="three starts instead of one")
    add("--tasks", nargs="*", default=[], help="only these configurations")
    add("--steps", type=int, default=0, help="of fine-tuning (default: the file's)")
    add("--pretraining-steps", type=int, default=1000, help="of --compare's")
    return parser.parse_args()


def prepared(args: argparse.Namespace, name: str) -> Path:
    """The folder of a data set, which is made if it is not there."""
    command("prepare", name, "--data-dir", args.data_dir)
    return args.data_dir / "mplug2_data" / name / "1.0.0"


def pretrain(args: argparse.Namespace, kinds: list[str]) -> Path:
    """A pretraining of `--compare`, on data of some kinds alone."""
    folder = args.workdir / ("joint" if len(kinds) > 1 else f"{kinds[0]}_alone")
    changed: dict[str, Any] = {"steps": args.pretraining_steps}
    for kind, name in KINDS.items():
        changed[f"mixture.{kind}.data.path"] = prepared(args, name)
        if kind not in kinds:
            changed[f"mixture.{kind}.weight"] = 0.0
    trained("pretrain_shapes", folder, changed)
    return folder


def measured(
    args: argparse.Namespace, row: Row, workdir: Path, start: Path | None
) -> tuple[dict[str, float], float]:
    """The task's metrics after training from a start, and the minutes it took."""
    data = prepared(args, row.data)
    changed: dict[str, Any] = {"train.path": data, "init_from": start or ""}
    if start is None:
        changed["vocab"] = CONFIGS / "shapes_words.txt"
    if args.steps:
        changed["steps"] = args.steps
    minutes = trained(row.config, workdir, changed)
    if row.clips:
        return search(workdir, data, row.clips), minutes
    return flat(evaluated(workdir, data, *row.options)), minutes


def flat(metrics: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """Numbers of nested mappings by path."""
    found = {}
    for name, value in metrics.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}/")
        else:
            found[prefix + name] = value
    return found


def learned(args: argparse.Namespace, rows: list[Row]) -> str:
    """The table of all tasks from one pretraining."""
    lines = ["| task | configuration | minutes | reached | chance |", "|---" * 5 + "|"]
    for row in rows:
        found, minutes = measured(args, row, args.workdir / row.config, args.pretrained)
        shown = ", ".join(_shown(name, found[name]) for name in row.metrics)
        config = f"`{row.config}.py`"
        lines.append(
            f"| {row.name} | {config} | {minutes:.1f} | {shown} | {row.chance} % |"
        )
    return "\n".join(lines)


def _shown(metric: str, value: float) -> str:
    name = metric if metric.startswith(WAYS) else metric.partition("/")[2]
    number = f"{value:.2f}" if name == "cider" else f"{value:.1%}"
    return f"{name.replace('_', ' ')} {number}"


def compared(args: argparse.Namespace, rows: list[Row]) -> str:
    """The table of three starts."""
    lines = [
        "| task | joint pretraining | its own kind of data alone | nothing |",
        "|---" * 4 + "|",
    ]
    joint = pretrain(args, list(KINDS))
    for row in rows:
        starts = {"joint": joint, "alone": pretrain(args, [row.kind]), "nothing": None}
        cells = []
        for name, start in starts.items():
            found, _ = measured(args, row, args.workdir / f"{row.config}_{name}", start)
            cells.append(f"{found[row.metrics[0]]:.1%}")
        lines.append(f"| {row.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    arguments = parse()
    if not arguments.compare and arguments.pretrained is None:
        raise SystemExit("--pretrained is missing: the workdir of pretrain_shapes.py")
    chosen = [row for row in ROWS if row.config in (arguments.tasks or {row.config})]
    made = (compared if arguments.compare else learned)(arguments, chosen)
    print("", machine("jax"), made, sep="\n\n")
