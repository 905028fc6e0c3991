"""Turns PyTorch weights into a checkpoint folder, and back.

    mplug2 convert --from mPLUG2_MSRVTT_Caption.pth --to FOLDER --vocab vocab.txt
    mplug2 convert --clip ViT-L-14.pt --bert model.safetensors --to FOLDER
    mplug2 convert --from FOLDER --to model.pth

Every tensor is accounted for in a report, printed and stored in the folder. A file
with missing, unexpected or misshapen weights is refused and nothing is written.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mplug2_jax.models.ablations import ABLATIONS

if TYPE_CHECKING:  # help comes before JAX
    from mplug2_jax.conversion.convert import Options
    from mplug2_jax.conversion.report import Report

TASKS = {"caption": "captioning", "qa": "question_answering"}
WEIGHT_FILES = (".pth", ".pt", ".bin", ".safetensors")
_FORWARD_ONLY = (
    "clip",
    "bert",
    "size",
    "bert_config",
    "task",
    "image_size",
    "temporal_stride",
    *ABLATIONS,
    "allow_missing",
    "keep_dead",
    "vocab",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what the command accepts."""
    add = parser.add_argument
    add(
        "--from",
        dest="source",
        type=Path,
        help="a PyTorch file, or a checkpoint folder",
    )
    add(
        "--to", type=Path, required=True, help="a folder, or FILE.pth, FILE.safetensors"
    )
    add("--clip", type=Path, help="CLIP's weights, to start training from")
    add("--bert", type=Path, help="BERT's weights, to start training from")
    add(
        "--size",
        choices=("tiny", "base", "large"),
        help="default: told from the shapes",
    )
    add("--bert-config", type=Path, help="BERT configuration (JSON) instead of --size")
    add("--task", choices=sorted(TASKS), help="convert only this task's modules")
    add("--image-size", type=int, help="resize the position embeddings, in pixels")
    add("--temporal-stride", type=int, help="of a stem that merges frames; default 2")
    only = "(with --clip and --bert)"
    add("--universal-layers", type=int, metavar="N", help=f"of all text layers {only}")
    add("--latents", type=int, metavar="N", help=f"of the universal layers {only}")
    add("--local-temporal", choices=("both", "first", "none"), help=f"modules {only}")
    add("--allow-missing", metavar="REGEX", help="keys to initialise when missing")
    add("--keep-dead", action="store_true", help="keep unused weights for the way back")
    add("--vocab", metavar="PATH", help="BERT's vocab.txt, stored with the checkpoint")
    add("--seed", type=int, default=0, help="of initialised weights")
    add("--overwrite", action="store_true", help="replace what is at --to")


def run(args: argparse.Namespace) -> int:
    """Converts; 0 if everything fitted.

    Raises:
      ValueError: the arguments or the weights do not fit.
      OSError: a file cannot be read or written.
    """
    import jax

    from mplug2_jax.conversion.convert import ConversionError, convert_file, join_files

    # Nothing is computed that an accelerator would help with, and it may be in use.
    jax.config.update("jax_platforms", "cpu")
    source, clip, bert = args.source, args.clip, args.bert
    if source is not None and source.is_dir():
        return _export(args)
    if args.to.suffix in WEIGHT_FILES:
        raise ValueError(
            f"--to {args.to} names a weight file, but --from is none of our checkpoint "
            "folders; a conversion from a weight file writes a folder."
        )
    try:
        if source is not None and clip is None and bert is None:
            why = f"is for --clip with --bert; {source} was trained with what it has"
            _refuse(args, ABLATIONS, why)
            report = convert_file(source, args.to, _options(args))
        elif source is None and clip is not None and bert is not None:
            report = join_files(clip, bert, args.to, _options(args))
        else:
            raise ValueError("Give either --from, or --clip together with --bert.")
    except ConversionError as error:
        print(error.report.text(), end="")
        raise
    _finish(report, args)
    return 0


def _refuse(args: argparse.Namespace, options: Iterable[str], why: str) -> None:
    """Raises ValueError if one of the options is given."""
    values = {name: getattr(args, name) for name in options}
    given = [
        n for n, value in values.items() if value is not None and value is not False
    ]
    if given:
        raise ValueError(f"--{given[0].replace('_', '-')} {why}.")


def _ablations(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for option, (section, name) in ABLATIONS.items():
        if (value := getattr(args, option)) is not None:
            found.setdefault(section, {})[name] = value
    return found


def _finish(report: "Report", args: argparse.Namespace) -> None:
    print(report.text(), end="")
    print(f"wrote {args.to}")
    if args.vocab is None:
        print("no tokenizer stored: pass --vocab here, or to the commands that use it")


def _export(args: argparse.Namespace) -> int:
    from mplug2_jax.checkpoint.parts import find_checkpoint
    from mplug2_jax.conversion.convert import export_checkpoint

    why = f"has no meaning when {args.source} is written back"
    _refuse(args, _FORWARD_ONLY, why)
    count = export_checkpoint(
        find_checkpoint(args.source), args.to, overwrite=args.overwrite
    )
    print(f"wrote {count} tensors to {args.to}")
    return 0


def _options(args: argparse.Namespace) -> "Options":
    from mplug2_jax.conversion.convert import Options
    from mplug2_jax.data.tokenizers import open_tokenizer
    from mplug2_jax.tasks.base import COMPOSITION

    tokenizer = None if args.vocab is None else open_tokenizer(args.vocab)
    return Options(
        size=args.size,
        bert=None if args.bert_config is None else _read_json(args.bert_config),
        modules=COMPOSITION[TASKS[args.task]].modules if args.task else None,
        image_size=args.image_size,
        temporal_stride=args.temporal_stride,
        ablations=_ablations(args),
        allow_missing=args.allow_missing,
        keep_dead=args.keep_dead,
        tokenizer=tokenizer,
        overwrite=args.overwrite,
        seed=args.seed,
        progress=_Progress(),
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}.") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no BERT configuration, which is a JSON object.")
    return values


class _Progress:
    """A line on a terminal: share, rate, time left."""

    def __init__(self):
        self.start = self.last = time.monotonic()

    def __call__(self, written: int, total: int) -> None:
        now = time.monotonic()
        if not sys.stderr.isatty() or (now - self.last < 0.5 and written < total):
            return
        self.last = now
        rate = written / max(now - self.start, 1e-6)
        left = (total - written) / rate
        line = f"\r{written / 1e9:.1f} of {total / 1e9:.1f} GB, "
        line += f"{rate / 1e6:.0f} MB/s, {left:.0f} s left "
        print(line, end="\n" if written >= total else "", file=sys.stderr, flush=True)
