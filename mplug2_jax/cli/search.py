"""Finds the videos and images of an index that a text describes.

    mplug2 search "a man plays the piano" --index mine
    mplug2 search "a man plays the piano" --index mine --top 3 --rerank 16 --json

Prints one line per file, best first: its name, a tab, its similarity in [-1, 1]. With
--rerank K the best K are read again and ordered by matching, which is better and
slower; they show the log odds of matching instead.
"""

import argparse
from typing import TYPE_CHECKING

from mplug2_jax.cli import options
from mplug2_jax.evaluation.results import to_json

if TYPE_CHECKING:
    from mplug2_jax.retriever import Hit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what the command accepts."""
    add = parser.add_argument
    add("query", metavar="QUERY", help="what to look for")
    add("--index", required=True, metavar="DIR", help="what `mplug2 index` made")
    add("--top", type=int, default=10, metavar="K", help="files to name (default: 10)")
    add(
        "--rerank",
        type=int,
        default=0,
        metavar="K",
        help="order the best K by matching (default: 0, none)",
    )
    add(
        "--checkpoint",
        metavar="DIR",
        help="the one that made the index (default: where it was then)",
    )
    add("--vocab", metavar="PATH", help="its vocabulary (default: its own)")
    add(
        "--batch-size",
        type=int,
        default=8,
        metavar="N",
        help="files read again together (default: 8)",
    )
    add("--json", action="store_true", help="print JSON lines")
    options.add_length_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Prints what is found.

    Raises:
      ValueError, OSError: query, index or checkpoint cannot be used.
    """
    from mplug2_jax.index import Index
    from mplug2_jax.retriever import Retriever

    if not args.query.strip():
        raise ValueError("The query is empty; say what to look for.")
    if args.top < 1 or args.rerank < 0:
        found = f"--top is {args.top} and --rerank {args.rerank}"
        raise ValueError(f"{found}; expected at least 1 and 0.")
    index = Index.load(args.index)
    retriever = Retriever.from_checkpoint(
        args.checkpoint or index.checkpoint,
        matching=args.rerank > 0,
        vocab=args.vocab,
        num_frames=index.num_frames,
        caption_length=args.caption_length,
        batch_size=args.batch_size,
    )
    for hit in retriever.search(index, args.query, args.top, args.rerank):
        _show(hit, args.json)
    return 0


def _show(hit: "Hit", as_json: bool) -> None:
    if as_json:
        print(to_json(hit._asdict()))
    else:
        score = hit.similarity if hit.odds is None else hit.odds
        print(f"{hit.file}\t{score:.4f}")
