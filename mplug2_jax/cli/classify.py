"""Tells which class videos and images belong to.

    mplug2 classify clip.mp4 --checkpoint checkpoints/kinetics400 --top-k 5
    mplug2 classify clips/*.mp4 --checkpoint DIR --clips 4 --crops 3 --scores
    mplug2 classify photo.jpg --checkpoint checkpoints/pretrained \\
        --classes animals.txt --template "a photo of a {}" --template "a {}"

With a classifier's checkpoint the classes are those it was trained on; with one of
pretraining or retrieval, those of --classes, compared by prompts. Prints one line per
file: its name, a tab, the class; with --top-k one line per class. --scores and --json
give probabilities. A file that cannot be read is reported and the others are classified
all the same; the exit status is then 1.
"""

import argparse
import json
import sys
from typing import TYPE_CHECKING

from mplug2_jax.cli import options

if TYPE_CHECKING:
    from mplug2_jax.classifier import MediaClassifier
    from mplug2_jax.prediction import Prediction


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what the command accepts."""
    parser.add_argument("files", nargs="+", metavar="FILE", help="video or image")
    options.add_model_arguments(parser)
    options.add_class_arguments(parser)
    options.add_output_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Prints classes; 1 if a file could not be read.

    Raises:
      ValueError, OSError: the checkpoint or the classes cannot be used.
    """
    from mplug2_jax.data.prefetch import batched, read_ahead
    from mplug2_jax.data.video import Media

    classifier = _load(args)
    shapes = classifier.shapes([0] * len(args.files))
    bad = 0
    with read_ahead(classifier.read, args.files, ahead=2 * shapes.media) as read:
        for window in batched(read, shapes.media):
            usable = [(file, m) for file, m in window if isinstance(m, Media)]
            for _, error in window:
                if not isinstance(error, Media):
                    print(f"mplug2 classify: error: {error}", file=sys.stderr)
            media = [medium for _, medium in usable]
            found = classifier.classify_media(media, shapes, args.top_k)
            for (file, _), its in zip(usable, found, strict=True):
                _show(str(file), its, args)
            bad += len(window) - len(usable)
    return 1 if bad else 0


def _load(args: argparse.Namespace) -> "MediaClassifier":
    from mplug2_jax.classifier import Classifier

    if args.classes:
        return options.load_prompt_classifier(args)
    if args.template:
        raise ValueError("--template is for zero-shot classes; name them by --classes.")
    return Classifier.from_checkpoint(
        args.checkpoint,
        views=options.views_of(args),
        vocab=args.vocab,
        num_frames=args.num_frames,
        batch_size=args.batch_size,
    )


def _show(file: str, found: "Prediction", args: argparse.Namespace) -> None:
    if args.json:
        classes = [{"class": h.text, "probability": h.score} for h in found.hypotheses]
        line: dict = {"file": file, "class": found.text, "probability": found.score}
        print(json.dumps(line | ({"classes": classes} if args.top_k > 1 else {})))
    else:
        for its in found.hypotheses:
            score = f"\t{its.score:.4f}" if args.scores else ""
            print(f"{file}\t{its.text}{score}")
    sys.stdout.flush()
