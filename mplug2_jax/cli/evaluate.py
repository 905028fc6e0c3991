"""Scores a checkpoint on annotated videos and images.

    mplug2 evaluate --checkpoint runs/mine --annotations test.jsonl
    mplug2 evaluate --checkpoint runs/mine --annotations test.jsonl --task qa \\
        --media-dir videos --output results.json
    mplug2 evaluate --checkpoint runs/mine --task qa --candidates answer_list.json \\
        --annotations data/mplug2_data/vqa_v2/1.0.0 --predictions answers.json
    mplug2 evaluate --checkpoint runs/pretrained --task retrieval \\
        --annotations data/mplug2_data/shapes/1.0.0 --split test
    mplug2 evaluate --checkpoint runs/pretrained --suite --output results \\
        --annotations data/mplug2_data/shapes/1.0.0:test mine.jsonl

Without --task and with --suite a checkpoint does what it was trained for, one that does
not say so what its modules allow; --task asks it for other tasks as well. PATH:SPLIT
names the split of one prepared data set, --split that of all others.

Captions: BLEU, ROUGE-L, CIDEr, METEOR where there is Java, and exact match against all
references of a video. Questions: exact match of the answer, overall and by the
questions' "kind", and under "vqa" the soft accuracy of VQA where the answers of four
people or more are known. Grounding:
accuracy_50, the share of phrases whose box has an IoU of 0.5 or more with the true one,
and the mean IoU. Retrieval,
which needs pretraining's heads: recall among the first 1, 5 and 10 and median rank, of
texts looking for their videos and the other way. With --dual-softmax, also what
contrast finds when a candidate's share of all queries counts (arXiv 2109.04290), which
nobody who asks one question can know. Shares are printed times 100, as papers have
them. Media with labels: accuracy and top_5, of a classifier's checkpoint (averaged over
--clips and --crops), or zero-shot by prompts (--task zero_shot_classification, with
--classes and --template as `mplug2 classify` has them). Texts with labels: accuracy, or
the metrics of their task of GLUE (--annotations data/glue/rte/2.0.0 --split
validation). Media that cannot be read, or are other numbers of images than the model
sees together, are reported and count nowhere; the exit status is then 1, unless
--max-bad-share allows them.
Retrieval, whose numbers depend on how many media there are, counts those without
captions like unreadable ones, and beyond --max-bad-share ends with an error; a suite
then does all other tasks.
What a suite has finished is written even if it ends with an error. Several processes
(launch/README.md) share the media, and the devices of each the rows of its batches; the
first prints and writes.
"""

import argparse
import functools
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mplug2_jax.cli import options
from mplug2_jax.cli.processes import is_first, together
from mplug2_jax.cli.progress import Progress

if TYPE_CHECKING:
    from mplug2_jax.data.examples import Example, TextExample
    from mplug2_jax.evaluation.results import Record
    from mplug2_jax.predictor import Predictor

SPLIT = "test"  # of prepared data sets, where nobody names one
SEEN = ("--task caption", "--task qa", "--task grounding", "--task pairs")
CLASSES = ("--task classification", "--task zero_shot_classification")
# Options that not everything reads: what they are without, and what reads them.
READ_BY: Mapping[str, tuple[Any, tuple[str, ...]]] = {
    "candidates": (None, ("--task qa", "--task all")),
    "predictions": (None, ("--task qa", "--task caption")),
    "single_frame": (False, (*SEEN, "--task classification", "--task all")),
    "clips": (1, (*CLASSES, "--task all")),
    "crops": (1, (*CLASSES, "--task all")),
    "classes": (None, CLASSES[1:]),
    "template": (None, CLASSES[1:]),
    "rerank": (None, ("--task retrieval", "--suite")),
    "dual_softmax": (False, ("--task retrieval", "--suite")),
    "caption_length": (None, ("--task retrieval",)),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what the command accepts."""
    options.add_model_arguments(parser, devices=True)
    _add_data_arguments(parser)
    _add_task_arguments(parser)
    _add_output_arguments(parser)
    options.add_length_argument(parser)
    options.add_class_arguments(parser)
    options.add_decoding_arguments(parser)


def _add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """What is evaluated."""
    add = parser.add_argument_group("data").add_argument
    add(
        "--annotations",
        required=True,
        nargs="+",
        metavar="PATH",
        help="JSON lines, or a prepared data set as FOLDER or FOLDER:SPLIT; several "
        "with --suite",
    )
    add(
        "--split",
        help=f"of prepared data sets that name none (default: {SPLIT})",
    )
    add(
        "--media-dir",
        metavar="DIR",
        help="folder the media names are relative to (default: the annotations' own)",
    )
    add("--limit", type=int, metavar="N", help="only the first N media")
    add(
        "--max-bad-share",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="of annotation lines, media and labels that may be unusable: they are "
        "named and left out (default: 0)",
    )
    add(
        "--single-frame",
        action="store_true",
        help="show each video's middle frame only, as often as it has frames",
    )


def _add_task_arguments(parser: argparse.ArgumentParser) -> None:
    """What is asked, and how."""
    add = parser.add_argument_group("task").add_argument
    add(
        "--task",
        choices=(
            *("caption", "qa", "grounding", "pairs", "text_classification"),
            *("classification", "zero_shot_classification", "retrieval", "all"),
        ),
        default="all",
        help="all (default): captions, answers, boxes and classes that are annotated "
        "and that the checkpoint was trained for; of one trained for it, retrieval",
    )
    add(
        "--suite",
        action="store_true",
        help="every task the checkpoint was trained for, on all the annotations: a "
        "table (results.md, results.json) and report.html in the folder --output",
    )
    add(
        "--rerank",
        type=int,
        metavar="K",
        help="retrieval: order each query's best K by matching (default: as trained, "
        "else 16; 0: none; papers: 128 on MSRVTT, 256 on COCO)",
    )
    add(
        "--dual-softmax",
        action="store_true",
        help="retrieval: report contrast with a dual softmax as well",
    )
    add(
        "--candidates",
        metavar="FILE",
        help="possible answers, one per line, or a JSON list: the likeliest counts",
    )
    add(
        "--no-meteor",
        action="store_true",
        help="captions: leave METEOR out, which starts a Java program",
    )


def _add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """What is written."""
    add = parser.add_argument_group("output").add_argument
    add(
        "--output",
        metavar="PATH",
        help="write metrics and every prediction (of retrieval: what each text found) "
        "as JSON; with --suite, a folder",
    )
    add(
        "--predictions",
        metavar="FILE",
        help="with --task qa or caption: ask also what has no annotated answer, and "
        "write JSON as the evaluation servers of VQA and COCO take it",
    )


def run(args: argparse.Namespace) -> int:
    """Prints a table; 1 if a medium could not be used.

    Raises:
      ValueError, OSError: checkpoint or annotations cannot be used.
    """
    with together():
        return _evaluate(args)


def _evaluate(args: argparse.Namespace) -> int:
    from mplug2_jax.data.opening import first, open_annotations
    from mplug2_jax.data.records import classes_of

    if args.limit is not None and args.limit < 1:
        raise ValueError(f"--limit is {args.limit}; it must be >= 1.")
    if not 0 <= args.max_bad_share <= 1:
        raise ValueError(f"--max-bad-share is {args.max_bad_share}; expected 0 to 1.")
    if args.rerank is not None and args.rerank < 0:
        raise ValueError(f"--rerank is {args.rerank}; it must be >= 0.")
    if args.suite and args.task != "all":
        raise ValueError(
            f"--suite does every task, and --task is {args.task}; leave one out."
        )
    if args.task == "all" and not args.suite and _searches(args.checkpoint):
        args.task = "retrieval"
    _check_options(args, "--suite" if args.suite else f"--task {args.task}")
    if args.split is not None and not any(map(_needs_split, args.annotations)):
        raise ValueError(
            f"--split is {args.split}, and every annotation is a file or names its "
            "split (PATH:SPLIT); leave it out."
        )
    args.split = args.split or SPLIT
    if args.suite:
        return _suite(args)
    if len(args.annotations) > 1:
        raise ValueError(
            f"{len(args.annotations)} annotations were given; several need --suite."
        )
    data, opened, texts = open_annotations(
        args.annotations[0], args.split, args.media_dir or "", args.max_bad_share
    )
    examples = first(opened, args.limit)
    if texts:
        return _labelled_texts(args, data.path, examples)
    if args.task == "zero_shot_classification":
        # Of all examples: how many are looked at changes no question.
        classes = () if args.classes else classes_of(opened, texts=False)
        return _prompts(args, examples, classes)
    return (
        _retrieval(args, examples)
        if args.task == "retrieval"
        else _texts(args, examples)
    )


def _searches(checkpoint: str) -> bool:
    """Whether a checkpoint was trained for retrieval alone."""
    from mplug2_jax.checkpoint.load import read_metadata
    from mplug2_jax.checkpoint.parts import find_checkpoint

    return read_metadata(find_checkpoint(checkpoint)).task == "retrieval"


def _needs_split(path: str) -> bool:
    """Whether an annotation is a prepared data set that names no split."""
    from mplug2_jax.data.opening import path_and_split

    return not Path(path).is_file() and path_and_split(path, "") == (path, "")


def _check_options(args: argparse.Namespace, chosen: str) -> None:
    """Raises ValueError for an option that what was chosen does not read."""
    for name, (default, readers) in READ_BY.items():
        if getattr(args, name) != default and chosen not in readers:
            raise ValueError(
                f"--{name.replace('_', '-')} needs {' or '.join(readers)}, and this is "
                f"{chosen}; leave it out."
            )


def _suite(args: argparse.Namespace) -> int:
    """All tasks on all annotations, written into a folder."""
    from mplug2_jax.evaluation.measured import left_out, rows
    from mplug2_jax.evaluation.suite import Options, run_suite, write_suite

    if not args.output:
        raise ValueError("--suite writes several files; give it a folder by --output.")
    predictor = options.load_predictor(args, None)
    its_options = Options(
        split=args.split,
        media=args.media_dir or "",
        limit=args.limit,
        max_bad_share=args.max_bad_share,
        rerank=args.rerank,
        dual_softmax=args.dual_softmax,
        meteor=not args.no_meteor,
        progress=functools.partial(Progress, sys.stderr),
    )
    about, measured = {"checkpoint": args.checkpoint}, []
    try:
        for its in run_suite(predictor, args.annotations, its_options, _say):
            measured.append(its)
    except BaseException as error:
        about["incomplete"] = str(error) or type(error).__name__
        raise
    finally:
        if measured and is_first():
            write_suite(args.output, measured, about)
    for cells in rows(measured):
        print("  ".join(filter(None, cells)))
    _report(left_out(measured))
    return max(_status(args, its.results.skipped, its.examples) for its in measured)


def _texts(args: argparse.Namespace, examples: "Sequence[Example]") -> int:
    """Captions and answers."""
    from mplug2_jax.evaluation.runner import evaluate

    candidates = options.read_lines(args.candidates) if args.candidates else None
    task = None if args.task == "all" else args.task
    predictor = options.load_predictor(args, task)
    results = evaluate(
        predictor,
        examples,
        None if task is None else (task,),
        candidates=candidates,
        meteor=not args.no_meteor,
        unscored=bool(args.predictions),
        single_frame=args.single_frame,
        views=options.views_of(args),
        max_bad_share=args.max_bad_share,
        progress=Progress(sys.stderr),
    )
    _finish(args, predictor, results.flat_metrics(), results.to_dict())
    if args.predictions:
        _write_predictions(args, results.records[args.task])
    _report(results.skipped)
    return _status(args, results.skipped, examples)


def _write_predictions(args: argparse.Namespace, records: "Sequence[Record]") -> None:
    from mplug2_jax.checkpoint.staging import staged
    from mplug2_jax.evaluation.submission import submission

    said = submission(args.task, records)
    if not is_first():
        return
    with staged(Path(args.predictions), overwrite=True) as partial:
        partial.write_text(json.dumps(said) + "\n")
    print(f"{len(said)} predictions are in {args.predictions}")


def _prompts(
    args: argparse.Namespace, examples: "Sequence[Example]", classes: "Sequence[str]"
) -> int:
    """Zero-shot classification, among --classes, else those of the data."""
    from mplug2_jax.evaluation.runner import evaluate_prompts

    classifier = options.load_prompt_classifier(args, classes)
    results = evaluate_prompts(
        classifier,
        examples,
        max_bad_share=args.max_bad_share,
        progress=Progress(sys.stderr),
    )
    _finish(args, classifier.predictor, results.flat_metrics(), results.to_dict())
    _report(results.skipped)
    return _status(args, results.skipped, examples)


def _labelled_texts(
    args: argparse.Namespace, path: str, examples: "Sequence[TextExample]"
) -> int:
    """Classes of texts."""
    from mplug2_jax.data.tfds_sets import glue_task
    from mplug2_jax.evaluation.texts import evaluate_texts

    if args.task not in ("all", "text_classification"):
        raise ValueError(
            f"{path} holds texts with labels, and --task is {args.task}; leave it out."
        )
    _check_options(args, "a set of texts")
    predictor = options.load_predictor(args, "text_classification")
    results = evaluate_texts(
        predictor,
        examples,
        glue_task(path),
        max_bad_share=args.max_bad_share,
        progress=Progress(sys.stderr, "texts"),
    )
    _finish(args, predictor, results.flat_metrics(), results.to_dict())
    _report(results.skipped)
    return 0


def _retrieval(args: argparse.Namespace, examples: "Sequence[Example]") -> int:
    from mplug2_jax.evaluation.retrieval import (
        TASK,
        TooManyUnusableError,
        depth,
        search_results,
    )
    from mplug2_jax.retriever import Retriever

    predictor = Retriever.from_checkpoint(
        args.checkpoint,
        matching=args.rerank != 0,
        vocab=args.vocab,
        num_frames=args.num_frames,
        caption_length=args.caption_length,
        batch_size=args.batch_size,
        devices=options.devices_of(args),
    ).predictor
    rerank = depth(predictor, args.rerank)
    try:
        results = search_results(
            predictor,
            examples,
            rerank,
            dual_softmax=args.dual_softmax,
            max_bad_share=args.max_bad_share,
            progress=functools.partial(Progress, sys.stderr),
        )
    except TooManyUnusableError as error:
        _report(error.skipped)
        raise
    run = {"rerank": rerank, "n": len(examples) - len(results.skipped)}
    _finish(args, predictor, results.metrics[TASK], run | results.to_dict())
    _report(results.skipped)
    return 0


def _finish(
    args: argparse.Namespace,
    predictor: "Predictor",
    metrics: Mapping[str, float],
    results: Mapping[str, Any],
) -> None:
    """Prints the metrics, if there are any, and writes everything where it is asked."""
    if metrics:
        print(table(metrics))
    if args.output and is_first():
        _write(Path(args.output), args, predictor, results)


def _status(
    args: argparse.Namespace, skipped: Mapping[str, str], examples: Sequence[Any]
) -> int:
    """The exit status: 1 if more media were left out than may be.

    How many labels may be was checked before the work.
    """
    from mplug2_jax.data.records import described

    left_out = sum(example.id in skipped for example in described(examples))
    return int(left_out > args.max_bad_share * len(examples))


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _report(skipped: Mapping[str, str]) -> None:
    for name, reason in skipped.items() if is_first() else ():
        print(f"mplug2 evaluate: left out {name}: {reason}", file=sys.stderr)


def table(metrics: Mapping[str, float]) -> str:
    """The metrics, one per line."""
    from mplug2_jax.evaluation.results import shown

    rows = [(name, shown(name, value, 2)) for name, value in metrics.items()]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{width}}  {value:>8}" for name, value in rows)


def _write(
    path: Path,
    args: argparse.Namespace,
    predictor: "Predictor",
    results: Mapping[str, Any],
) -> None:
    from dataclasses import asdict

    from mplug2_jax.checkpoint.staging import staged
    from mplug2_jax.evaluation.results import to_json

    run: dict[str, Any] = {
        "checkpoint": args.checkpoint,
        "annotations": args.annotations[0],
        "single_frame": args.single_frame,
        "candidates": args.candidates,
        "inputs": asdict(predictor.inputs),
        "decoding": asdict(predictor.decoding),
    }
    with staged(path, overwrite=True) as partial:
        partial.write_text(to_json(run | dict(results), indent=1) + "\n")
