"""Makes videos and images searchable by text.

    mplug2 index clips/*.mp4 photos/*.jpg --checkpoint runs/pretrained --output mine
    mplug2 search "a man plays the piano" --index mine

The folder holds one feature of each file, the files' absolute paths and which
checkpoint made them; it is written whole or not at all. A file that cannot be read is
reported and left out; the exit status is then 1. Several processes (launch/README.md)
share the files, and the devices of each the rows of its batches; the first writes.
"""

import argparse
import os
import sys
from pathlib import Path

import numpy as np

from mplug2_jax.cli import options
from mplug2_jax.cli.files import readable
from mplug2_jax.cli.processes import is_first, together
from mplug2_jax.cli.progress import Progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what the command accepts."""
    parser.add_argument("files", nargs="+", metavar="FILE", help="video or image")
    options.add_model_arguments(parser, devices=True)
    add = parser.add_argument_group("output").add_argument
    add("--output", required=True, metavar="DIR", help="folder of the index")
    add("--overwrite", action="store_true", help="replace an index that is there")


def run(args: argparse.Namespace) -> int:
    """Writes the index; 1 if a file could not be read.

    Raises:
      ValueError, OSError: no file is usable, or the checkpoint cannot be used.
    """
    with together():
        return _index(args)


def _index(args: argparse.Namespace) -> int:
    from mplug2_jax.checkpoint.parts import find_checkpoint
    from mplug2_jax.index import FILE, Index
    from mplug2_jax.retriever import Retriever

    if (Path(args.output) / FILE).exists() and not args.overwrite:
        raise ValueError(
            f"{args.output} is an index already; choose another place or pass "
            "--overwrite."
        )
    retriever = Retriever.from_checkpoint(
        args.checkpoint,
        matching=False,
        vocab=args.vocab,
        num_frames=args.num_frames,
        batch_size=args.batch_size,
        devices=options.devices_of(args),
    )
    files = list(dict.fromkeys(map(os.path.abspath, args.files)))
    features = _features(retriever, files)
    if not features:
        raise ValueError(
            f"None of the {len(files)} files can be used; none is indexed."
        )
    index = Index(
        np.stack(list(features.values())),
        list(features),
        os.path.abspath(find_checkpoint(args.checkpoint)),
        retriever.fingerprint,
        retriever.predictor.inputs.num_frames,
    )
    if is_first():
        index.save(args.output, overwrite=args.overwrite)
    bad = len(files) - len(features)
    left_out = f", {bad} left out" if bad else ""
    print(f"{args.output}: {len(features)} files{left_out}")
    return 1 if bad else 0


def _features(retriever, files: list[str]) -> dict[str, np.ndarray]:
    """A feature of each file that can be read; of the others their faults are said.

    Each process reads its share of the files, and has the features of all.
    """
    import jax

    from mplug2_jax.data.evaluation_batches import gather_by_id

    its, progress = retriever.predictor, Progress(sys.stderr)
    mine = files[jax.process_index() :: jax.process_count()]
    found: dict[str, list[float]] = {}
    done = 0
    for usable, unusable in readable("index", its.read, mine, its.batch_size):
        encoded = retriever.encode_window([medium for _, medium in usable])
        for (file, _), (feature, _) in zip(usable, encoded, strict=True):
            found[file] = feature.tolist()
        done += len(usable) + unusable
        progress(done, len(mine))
    everyone = gather_by_id(found)
    return {f: np.array(everyone[f], np.float32) for f in files if f in everyone}
