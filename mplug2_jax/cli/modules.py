"""Which modules each task uses, and how many parameters they have.

    mplug2 modules
    mplug2 modules --size base --task captioning

Only the modules of a task are built, loaded and trained. Parameters are counted with
the vocabulary's true size (word tables are stored padded to a multiple of 128); heads
(contrast, matching, masked words, a classifier of two classes) are the last of the
numbers. The universal layers have more of them where there is
vision: the latents and the cross-attention.
"""

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mplug2_jax.models.config import MPlug2Config

SIZES = ("tiny", "base", "large")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what the command accepts."""
    parser.add_argument(
        "--size", choices=SIZES, default="large", help="preset (default: large)"
    )
    parser.add_argument("--task", metavar="NAME", help="only this row of the table")


def run(args: argparse.Namespace) -> int:
    """Prints the table.

    Raises:
      ValueError: there is no such task.
    """
    from mplug2_jax.models.config import preset
    from mplug2_jax.models.mplug2 import MODULES
    from mplug2_jax.tasks.base import COMPOSITION

    tasks = COMPOSITION
    if args.task is not None:
        if args.task not in COMPOSITION:
            raise ValueError(
                f"There is no task {args.task!r}; choose one of "
                f"{', '.join(COMPOSITION)}."
            )
        tasks = {args.task: COMPOSITION[args.task]}
    config = preset(args.size)
    sizes = {row.modules: module_sizes(config, row.modules) for row in tasks.values()}
    header = ("task", *MODULES, "total", "of it heads", "universal reads", "head, loss")
    rows: list[tuple[str, ...]] = [header]
    for name, row in tasks.items():
        counts = sizes[row.modules]
        cells = [_millions(counts[m]) if m in counts else "-" for m in MODULES]
        total = _millions(sum(counts.values()))
        heads = [counts[m] for m in counts if m not in MODULES]
        heads = _millions(sum(heads)) if heads else "-"
        rows.append((name, *cells, total, heads, row.universal, row.head))
    print(f"{args.size}: parameters in millions")
    print(aligned(rows, left={0, len(header) - 2, len(header) - 1}))
    return 0


def module_sizes(config: "MPlug2Config", modules: tuple[str, ...]) -> dict[str, int]:
    """Parameters of every module of a model of `modules`, without making any.

    `visual_projection` counts as vision; padding of the vocabulary does not count.
    """
    from flax.traverse_util import flatten_dict

    from mplug2_jax.models.mplug2 import abstract_params

    text, sizes = config.text, dict.fromkeys(modules, 0)
    leaves: dict[tuple[str, ...], Any] = flatten_dict(abstract_params(config, modules))
    for path, leaf in leaves.items():
        size = leaf.size
        if path[-3:] == ("embeddings", "word", "embedding"):
            size = text.vocab_size * text.width
        elif path[-2:] == ("head", "bias"):
            size = text.vocab_size
        sizes[_module(path)] += size
    return sizes


def _module(path: tuple[str, ...]) -> str:
    if any(name.startswith("local_temporal") for name in path):
        return "local_temporal"
    return "vision" if path[0] == "visual_projection" else path[0]


def _millions(count: int) -> str:
    return f"{count / 1e6:.2f}"


def aligned(rows: list[tuple[str, ...]], left: set[int]) -> str:
    """Rows as columns, flush right but for those in `left`."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(row: tuple[str, ...]) -> str:
        cells = (
            cell.ljust(width) if index in left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return "  ".join(cells).rstrip()

    return "\n".join(map(line, rows))
