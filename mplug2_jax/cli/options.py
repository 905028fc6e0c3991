"""Arguments that several commands share, and what they make of them."""

import argparse
import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # commands import JAX only when they run
    from collections.abc import Sequence

    from mplug2_jax.classifier import PromptClassifier
    from mplug2_jax.data.views import Views
    from mplug2_jax.predictor import Predictor
    from mplug2_jax.tasks.generation import TaskName

METHODS = ("beam", "greedy", "sample")
RULES = ("upstream", "standard")


def add_model_arguments(
    parser: argparse.ArgumentParser, videos: bool = True, devices: bool = False
) -> None:
    """The checkpoint and what it is fed with.

    Args:
      videos: whether that may be videos.
      devices: whether several may be used.
    """
    parser.set_defaults(devices=1)
    add = parser.add_argument_group("model").add_argument
    add(
        "--checkpoint",
        required=True,
        metavar="DIR",
        help="checkpoint folder, or a training's work folder",
    )
    add(
        "--vocab",
        metavar="PATH",
        help="BERT's vocab.txt, a SentencePiece .model or a tokenizer's folder "
        "(default: the checkpoint's own)",
    )
    if videos:
        add(
            "--num-frames",
            type=int,
            metavar="N",
            help="frames per video (default: as trained)",
        )
    add(
        "--batch-size",
        type=int,
        default=8,
        metavar="N",
        help="files, or questions, processed together (default: 8)",
    )
    if devices:
        add(
            "--devices",
            type=int,
            default=0,
            metavar="N",
            help="of each process, which divide --batch-size evenly: the first N at "
            "most (default: 0, all)",
        )


def devices_of(args: argparse.Namespace) -> "Sequence[Any]":
    """The devices of this process that may be used.

    Raises:
      ValueError: there are fewer.
    """
    import jax

    devices = jax.local_devices()
    if not 0 <= args.devices <= len(devices):
        raise ValueError(
            f"--devices is {args.devices}, and a process has {len(devices)} here; ask "
            "for some of these, or for all by 0."
        )
    return devices[: args.devices or None]


def add_length_argument(parser: argparse.ArgumentParser) -> None:
    """How far the texts are read that media are compared with."""
    parser.add_argument_group("retrieval").add_argument(
        "--caption-length",
        type=int,
        metavar="N",
        help="tokens of a text, what is longer is cut (default: as trained)",
    )


def add_decoding_arguments(parser: argparse.ArgumentParser) -> None:
    """How texts are generated; what is not given is as the checkpoint says."""
    add = parser.add_argument_group(
        "decoding",
        "by default as the checkpoint's run was judged; of converted ones: 5 beams",
    ).add_argument
    add("--method", choices=METHODS)
    add("--beam-size", type=int, metavar="N", help="of --method beam")
    add("--rule", choices=RULES, help="of --method beam")
    add("--temperature", type=float, metavar="T", help="of --method sample")
    add(
        "--top-p",
        type=float,
        metavar="P",
        help="sample from the likeliest tokens that reach this probability",
    )
    add(
        "--sample-top-k",
        type=int,
        metavar="N",
        help="sample from the N likeliest tokens; 0: from all",
    )
    add("--seed", type=int, help="of --method sample")


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """What is printed."""
    add = parser.add_argument_group("output").add_argument
    add(
        "--top-k",
        type=int,
        default=1,
        metavar="K",
        help="print the K best texts, best first (default: 1)",
    )
    add("--scores", action="store_true", help="print scores behind the texts")
    add("--json", action="store_true", help="print JSON lines")


def add_class_arguments(parser: argparse.ArgumentParser) -> None:
    """How media are looked at to be classified, and by which prompts, if by any."""
    add = parser.add_argument_group("classification").add_argument
    add(
        "--clips",
        type=int,
        default=1,
        metavar="N",
        help="of each video, at shifted times; probabilities are averaged (default: 1)",
    )
    add(
        "--crops",
        type=int,
        choices=(1, 3),
        default=1,
        help="1: the whole frame, squeezed into a square (default); 3: squares along "
        "its longer side",
    )
    add(
        "--classes",
        metavar="FILE",
        help="zero-shot: names, one a line, and after a tab what prompts call them",
    )
    add(
        "--template",
        action="append",
        metavar="TEXT",
        help="zero-shot: a prompt with {} for the class; several are averaged "
        "(default: a photo of a {})",
    )


def views_of(args: argparse.Namespace) -> "Views":
    """The views that the arguments describe."""
    from mplug2_jax.data.views import Views

    return Views(args.clips, args.crops)


def load_prompt_classifier(
    args: argparse.Namespace, classes: "Sequence[str]" = ()
) -> "PromptClassifier":
    """The zero-shot classifier that the arguments describe.

    Args:
      classes: where --classes names none.
    """
    from mplug2_jax.classifier import TEMPLATES, PromptClassifier
    from mplug2_jax.retriever import Retriever

    lines = read_lines(args.classes) if args.classes else list(classes)
    pairs = [line.partition("\t") for line in lines]
    retriever = Retriever.from_checkpoint(
        args.checkpoint,
        matching=False,
        vocab=args.vocab,
        num_frames=args.num_frames,
        batch_size=args.batch_size,
        devices=devices_of(args),
    )
    return PromptClassifier(
        retriever,
        [name.strip() for name, _, _ in pairs],
        args.template or TEMPLATES,
        views_of(args),
        [(words or name.replace("_", " ")).strip() for name, _, words in pairs],
    )


def load_predictor(args: argparse.Namespace, task: "TaskName | None") -> "Predictor":
    """The predictor that the arguments describe."""
    from mplug2_jax.predictor import Predictor

    return Predictor.from_checkpoint(
        args.checkpoint,
        task=task,
        vocab=args.vocab,
        decoding=decoding_of(args),
        num_frames=args.num_frames,
        batch_size=args.batch_size,
        devices=devices_of(args),
    )


def decoding_of(args: argparse.Namespace) -> dict[str, Any]:
    """What the arguments change of the checkpoint's decoding."""
    given = {
        "method": args.method,
        "rule": args.rule,
        "beam_size": args.beam_size,
        "temperature": args.temperature,
        "top_k": args.sample_top_k,
        "top_p": args.top_p,
        "seed": args.seed,
    }
    return {name: value for name, value in given.items() if value is not None}


def read_lines(path: str | Path) -> list[str]:
    """The lines of a text file that are not blank, or the texts of a JSON list.

    Raises:
      OSError: it cannot be read.
      ValueError: it is not UTF-8 text, is empty, or a .json file of something else.
    """
    try:
        content = Path(path).read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 text; expected one text a line."
        ) from error
    is_json = Path(path).suffix == ".json"
    lines = _listed(path, content) if is_json else content.splitlines()
    if not (found := [line.strip() for line in lines if line.strip()]):
        raise ValueError(f"{path} is empty; expected one text a line.")
    return found


def _listed(path: str | Path, content: str) -> list[str]:
    with contextlib.suppress(ValueError):
        found = json.loads(content)
        if isinstance(found, list) and all(isinstance(text, str) for text in found):
            return found
    raise ValueError(f"{path} is not a JSON list of texts; expected one, or lines.")
