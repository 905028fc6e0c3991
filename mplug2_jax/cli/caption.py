"""Describes videos and images.

    mplug2 caption clip.mp4 photo.jpg --checkpoint checkpoints/mine
    mplug2 caption clips/*.mp4 --checkpoint checkpoints/mine --top-k 3 --scores --json

Prints one line per file: its name, a tab, the caption; with --top-k one line per
caption. A file that cannot be read is reported and the others are described all the
same; the exit status is then 1.
"""

import argparse
import sys
from typing import TYPE_CHECKING

from mplug2_jax.cli import options
from mplug2_jax.cli.files import readable
from mplug2_jax.evaluation.results import to_json

if TYPE_CHECKING:
    from mplug2_jax.prediction import Prediction


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what the command accepts."""
    parser.add_argument("files", nargs="+", metavar="FILE", help="video or image")
    options.add_model_arguments(parser)
    options.add_decoding_arguments(parser)
    options.add_output_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Prints captions; 1 if a file could not be read.

    Raises:
      ValueError, OSError: the checkpoint cannot be used.
    """
    predictor = options.load_predictor(args, "caption")
    shapes = predictor.shapes([0] * len(args.files))
    done = bad = 0
    windows = readable("caption", predictor.read, args.files, shapes.media)
    for usable, unusable in windows:
        media = [medium for _, medium in usable]
        captions = predictor.caption_media(media, shapes, args.top_k, done)
        for (file, _), caption in zip(usable, captions, strict=True):
            _show(str(file), caption, args)
        done, bad = done + len(usable) + unusable, bad + unusable
    return 1 if bad else 0


def _show(file: str, caption: "Prediction", args: argparse.Namespace) -> None:
    if args.json:
        texts = [{"text": h.text, "score": h.score} for h in caption.hypotheses]
        line: dict = {"file": file, "caption": caption.text, "score": caption.score}
        print(to_json(line | ({"captions": texts} if args.top_k > 1 else {})))
    else:
        for text in caption.hypotheses:
            score = f"\t{text.score:.4f}" if args.scores else ""
            print(f"{file}\t{text.text}{score}")
    sys.stdout.flush()
