"""Finds what phrases name in an image.

    mplug2 ground street.jpg "the red car" --checkpoint checkpoints/refcoco
    mplug2 ground street.jpg "the red car" "a dog" --checkpoint DIR --output marked.png

Prints one line per phrase, in their order: x0 y0 x1 y1 in pixels of the image, from its
left and upper edge, a tab, the phrase. --output draws the boxes onto the image. The
probability of --scores and --json is the box's share of all boxes that the model can
write: fine steps make all of them small, and it says nothing about whether the thing is
there at all.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mplug2_jax.cli import options
from mplug2_jax.evaluation.results import to_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mplug2_jax.grounder import Grounded

FORMATS = (".png", ".jpg", ".jpeg", ".webp")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what the command accepts."""
    parser.add_argument("image", metavar="IMAGE", help="image file")
    parser.add_argument("phrases", nargs="+", metavar="PHRASE")
    options.add_model_arguments(parser, videos=False)
    add = parser.add_argument_group("output").add_argument
    add("--output", metavar="FILE", help="write the image with the boxes drawn onto it")
    add("--scores", action="store_true", help="print probabilities behind the boxes")
    add("--json", action="store_true", help="print JSON lines")


def run(args: argparse.Namespace) -> int:
    """Prints boxes.

    Raises:
      ValueError, OSError: the checkpoint, the image, a phrase or the output cannot be
        used.
    """
    from mplug2_jax.data.image import read_image
    from mplug2_jax.grounder import Grounder

    if args.output and Path(args.output).suffix.lower() not in FORMATS:
        raise ValueError(
            f"--output is {args.output}; expected a name that ends in one of "
            f"{' '.join(FORMATS)}."
        )
    grounder = Grounder.from_checkpoint(
        args.checkpoint, vocab=args.vocab, batch_size=args.batch_size
    )
    pixels = read_image(args.image)
    found = grounder.ground(pixels, args.phrases)
    for its in found:
        _show(args.image, its, args)
    if args.output:
        _draw(Path(args.output), pixels, found)
    return 0


def _show(image: str, found: "Grounded", args: argparse.Namespace) -> None:
    if args.json:
        width, height = found.size
        line = {"image": image, "phrase": found.phrase, "box": found.pixels}
        line |= {"size": [width, height], "probability": found.probability}
        print(to_json(line))
        return
    score = f"\t{found.probability:.4f}" if args.scores else ""
    corners = " ".join(f"{value:.0f}" for value in found.pixels)
    print(f"{corners}\t{found.phrase}{score}")


def _draw(path: Path, pixels, found: "Sequence[Grounded]") -> None:
    from mplug2_jax.checkpoint.staging import staged
    from mplug2_jax.drawing import draw_boxes

    boxes, labels = [its.box for its in found], [its.phrase for its in found]
    picture = draw_boxes(pixels, boxes, labels)
    with staged(path, overwrite=True) as partial:
        kind = path.suffix.lower().removeprefix(".").replace("jpg", "jpeg")
        picture.save(partial, kind)
