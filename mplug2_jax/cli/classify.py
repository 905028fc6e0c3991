"""Tells which class videos, images, texts, or texts about these belong to.

    mplug2 classify clip.mp4 --checkpoint checkpoints/kinetics400 --top-k 5
    mplug2 classify clips/*.mp4 --checkpoint DIR --clips 4 --crops 3 --scores
    mplug2 classify photo.jpg --checkpoint checkpoints/pretrained \\
        --classes animals.txt --template "a photo of a {}" --template "a {}"
    mplug2 classify --text "a man runs" --second "he moves" --checkpoint checkpoints/rte
    mplug2 classify photo.jpg --text "a dog sleeps" --checkpoint checkpoints/snli_ve
    mplug2 classify left.png right.png --text "both show a dog" \\
        --checkpoint checkpoints/nlvr2

With a classifier's checkpoint the classes are those it was trained on; with one of
pretraining or retrieval, those of --classes, compared by prompts. Prints one line per
file: its name, a tab, the class; with --top-k one line per class. --scores and --json
give probabilities. A file that cannot be read is reported and the others are classified
all the same; the exit status is then 1.

With --text it is texts that are classified: alone, or about each of the files; about
all of them together, if the checkpoint was trained on so many images. A file that
cannot be read is then an error.
"""

import argparse
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from mplug2_jax.cli import options
from mplug2_jax.cli.files import readable
from mplug2_jax.evaluation.results import to_json

if TYPE_CHECKING:
    from mplug2_jax.classifier import MediaClassifier
    from mplug2_jax.prediction import Prediction


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what the command accepts."""
    parser.add_argument("files", nargs="*", metavar="FILE", help="video or image")
    parser.add_argument(
        "--text",
        action="append",
        metavar="TEXT",
        help="classify this text, alone or about FILE; may be given several times",
    )
    parser.add_argument("--second", metavar="TEXT", help="what goes with the one text")
    options.add_model_arguments(parser)
    options.add_class_arguments(parser)
    options.add_output_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Prints classes; 1 if a file could not be read.

    Raises:
      ValueError, OSError: the checkpoint or the classes cannot be used.
    """
    _check(args)
    if args.text:
        return _texts(args)
    classifier = _load(args)
    shapes = classifier.shapes([0] * len(args.files))
    bad = 0
    windows = readable("classify", classifier.read, args.files, shapes.media)
    for usable, unusable in windows:
        media = [medium for _, medium in usable]
        found = classifier.classify_media(media, shapes, args.top_k)
        for (file, _), its in zip(usable, found, strict=True):
            _show(str(file), its, args)
        bad += unusable
    return 1 if bad else 0


def _check(args: argparse.Namespace) -> None:
    """Raises ValueError for arguments that do not go together."""
    if not (args.files or args.text):
        raise ValueError("There is nothing to classify; name files, or give --text.")
    if args.second and (args.files or len(args.text or ()) != 1):
        raise ValueError("--second goes with one --text and no files.")
    if args.text and (
        args.classes or args.template or (args.clips, args.crops) != (1, 1)
    ):
        raise ValueError(
            "--classes, --template, --clips and --crops are for media without --text."
        )


def _texts(args: argparse.Namespace) -> int:
    """Classes of texts, alone or about media."""
    from mplug2_jax.text_classifier import PairClassifier, TextClassifier

    shared = {"vocab": args.vocab, "batch_size": args.batch_size}
    if not args.files:
        texts = TextClassifier.from_checkpoint(args.checkpoint, **shared)
        for text in args.text:
            found = texts.classify(text, args.second or "", args.top_k)
            _show(text, found, args, "text")
        return 0
    shared["num_frames"] = args.num_frames
    pairs = PairClassifier.from_checkpoint(args.checkpoint, **shared)
    together = pairs.predictor.model.config.classifier.num_media > 1
    for media in [args.files] if together else [[file] for file in args.files]:
        its = pairs.classify(media, args.text, args.top_k)
        for text, found in zip(args.text, its, strict=True):
            _show(text, found, args, "text", {"file": " ".join(media)})
    return 0


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


def _show(
    asked: str,
    found: "Prediction",
    args: argparse.Namespace,
    kind: str = "file",
    about: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Prints the classes of what was asked: a file, or a text, perhaps about files."""
    if args.json:
        classes = [{"class": h.text, "probability": h.score} for h in found.hypotheses]
        line: dict = {**about, kind: asked}
        line |= {"class": found.text, "probability": found.score}
        print(to_json(line | ({"classes": classes} if args.top_k > 1 else {})))
    else:
        for its in found.hypotheses:
            score = f"\t{its.score:.4f}" if args.scores else ""
            print("\t".join([*about.values(), asked, its.text]) + score)
    sys.stdout.flush()
