"""Answers questions about a video or an image.

    mplug2 ask clip.mp4 "what is the man doing" --checkpoint checkpoints/mine
    mplug2 ask clip.mp4 "who sings" "where" --checkpoint DIR --candidates answers.txt

Prints one answer per line, in the order of the questions; with --top-k one line per
answer.
"""

import argparse

from mplug2_jax.cli import options
from mplug2_jax.evaluation.results import to_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what the command accepts."""
    parser.add_argument("file", metavar="FILE", help="video or image")
    parser.add_argument("questions", nargs="+", metavar="QUESTION")
    parser.add_argument(
        "--candidates",
        metavar="FILE",
        help="possible answers, one per line, or a JSON list: the likeliest is printed",
    )
    options.add_model_arguments(parser)
    options.add_decoding_arguments(parser)
    options.add_output_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Prints answers.

    Raises:
      ValueError, OSError: the checkpoint, the file or a question cannot be used.
    """
    candidates = options.read_lines(args.candidates) if args.candidates else None
    predictor = options.load_predictor(args, "qa")
    answers = predictor.answer(args.file, args.questions, candidates, args.top_k)
    for question, answer in zip(args.questions, answers, strict=True):
        if args.json:
            texts = [{"text": h.text, "score": h.score} for h in answer.hypotheses]
            line: dict = {"file": args.file, "question": question}
            line |= {"answer": answer.text, "score": answer.score}
            print(to_json(line | ({"answers": texts} if args.top_k > 1 else {})))
            continue
        for text in answer.hypotheses:
            print(text.text + (f"\t{text.score:.4f}" if args.scores else ""))
    return 0
