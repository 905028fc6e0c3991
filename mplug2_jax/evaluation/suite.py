"""Every task that a checkpoint has learned, on every data set that is annotated for it.

One table of numbers (`results.md`, and with all predictions `results.json`), and
`report.html` with the best and the worst examples.
"""

import contextlib
import dataclasses
import datetime
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mplug2_jax import __version__
from mplug2_jax.checkpoint.staging import staged
from mplug2_jax.classifier import TEMPLATES, PromptClassifier, WordlessError
from mplug2_jax.data.examples import Example, labels_of
from mplug2_jax.data.opening import DataConfig, first, open_annotations
from mplug2_jax.data.records import classes_of, described, is_prepared
from mplug2_jax.data.tfds_sets import glue_task, prepared_folder
from mplug2_jax.decoding import DecodingConfig
from mplug2_jax.evaluation.gallery import gallery
from mplug2_jax.evaluation.measured import HEADS, Measured, left_out, rows
from mplug2_jax.evaluation.results import Results, to_json
from mplug2_jax.evaluation.retrieval import (
    Progress,
    TooManyUnusableError,
    depth,
    search_results,
    silent,
)
from mplug2_jax.evaluation.runner import NothingToAskError, evaluate, evaluate_prompts
from mplug2_jax.evaluation.texts import evaluate_texts
from mplug2_jax.evaluation.usable import UnusableError
from mplug2_jax.predictor import Predictor
from mplug2_jax.retriever import Retriever
from mplug2_jax.tasks.generation import TaskName
from mplug2_jax.tasks.retrieval import MATCHING

Media = Sequence[Example]
# What was asked of which examples, and in words how (`Measured.how`).
Said = Iterator[tuple[Media, Results, Mapping[str, str]]]
ZERO_SHOT: TaskName = "zero_shot_classification"


@dataclasses.dataclass(frozen=True)
class Options:
    """How a suite is run.

    Attributes:
      split: of prepared sets that name none.
      media: folder of the media of annotation files.
      limit: only the first so many examples.
      max_bad_share: of lines, media and labels; for retrieval see `search_results`.
      rerank, dual_softmax: see `search_results`.
      meteor: see `score_captions`.
      progress: of the media, texts and pairs of each task.
    """

    split: str = "test"
    media: str = ""
    limit: int | None = None
    max_bad_share: float = 0.0
    rerank: int | None = None
    dual_softmax: bool = False
    meteor: bool = False
    progress: Progress = silent


def run_suite(
    predictor: Predictor,
    annotations: Sequence[str],
    options: Options = Options(),
    say: Callable[[str], None] = lambda text: None,
) -> Iterator[Measured]:
    """Asks all that can be asked, data set by data set, and gives what is finished.

    Args:
      annotations: files of JSON lines, folders of prepared sets, also as PATH:SPLIT.
      say: told what is being done.

    Raises:
      ValueError: a data set cannot be opened, which is said before the work, or has
        nothing that the model can do.
    """
    given = options.split, options.media, options.max_bad_share
    for data, opened, texts in [open_annotations(path, *given) for path in annotations]:
        found, ask = False, _of_texts if texts else _of_media
        for examples, results, how in ask(predictor, data, opened, options):
            found = True
            said = ", ".join(results.metrics) or f"{len(results.skipped)} left out"
            say(f"{data.path}: {said}")
            yield Measured(data.path, _split(data), examples, results, how)
        if not found:
            raise ValueError(
                f"{data.path} has nothing that {predictor.origin} can be asked; leave "
                "it out."
            )


def _split(data: DataConfig) -> str:
    return data.split if is_prepared(prepared_folder(data.path, data.data_dir)) else ""


def _of_texts(
    predictor: Predictor, data: DataConfig, opened: Sequence, options: Options
) -> Said:
    """Classes of texts."""
    if predictor.can("text_classification"):
        texts = first(opened, options.limit)
        glue, share = glue_task(data.path), options.max_bad_share
        progress = options.progress("texts")
        try:
            results = evaluate_texts(
                predictor, texts, glue, max_bad_share=share, progress=progress
            )
        except UnusableError as error:
            yield _unusable(texts, error)
        else:
            yield (), results, {}


def _of_media(
    predictor: Predictor, data: DataConfig, opened: Media, options: Options
) -> Said:
    """All tasks that model and annotations know."""
    examples, share = first(opened, options.limit), options.max_bad_share
    try:
        results = evaluate(
            predictor,
            examples,
            meteor=options.meteor,
            max_bad_share=share,
            progress=options.progress("media"),
        )
    except NothingToAskError:
        pass  # of what follows there may be something
    except UnusableError as error:
        yield _unusable(examples, error)
    else:
        yield examples, results, _decodings(predictor)
    if predictor.can("retrieval") and any(e.captions for e in described(examples)):
        yield _search(predictor, examples, options)
    if predictor.can(ZERO_SHOT):
        yield from _by_prompts(predictor, opened, options)


def _unusable(
    examples: Sequence, error: UnusableError
) -> tuple[Media, Results, Mapping[str, str]]:
    """No metrics, but why there are none; the first example stands for all."""
    one = examples[:1]
    return one, Results({}, {}, {one[0].id: str(error)}, 0.0), {}


def _decodings(predictor: Predictor) -> dict[str, str]:
    """How texts and boxes were written: the method, and all settings of the search."""
    its = predictor.decoding
    seed = {"seed": its.seed} if its.method == "sample" else {}

    def words(search: DecodingConfig) -> str:
        used = {**dataclasses.asdict(search), **seed}.items()
        shown = (f"{k.replace('_', ' ')} {v}" for k, v in used if not k.endswith("_id"))
        return ", ".join((its.method, *shown))

    answers = words(predictor.answer_decoding)
    return {
        "caption": words(predictor.caption_decoding),
        "qa": answers,
        "vqa": answers,
        "grounding": "greedy, among boxes that have an area",
    }


def _search(
    predictor: Predictor, examples: Media, options: Options
) -> tuple[Media, Results, Mapping[str, str]]:
    """Retrieval among what can be searched; no metrics if too much cannot."""
    can_match = set(MATCHING) <= set(predictor.model.modules)
    rerank = depth(predictor, options.rerank) if can_match else 0
    try:
        results = search_results(
            predictor,
            examples,
            rerank,
            dual_softmax=options.dual_softmax,
            max_bad_share=options.max_bad_share,
            progress=options.progress,
        )
    except TooManyUnusableError as error:
        return examples, Results({}, {}, error.skipped, 0.0), {}
    among = len(examples) - len(results.skipped)
    order = f"the best {rerank} ordered by matching" if rerank else "by contrast alone"
    return examples, results, {"retrieval": f"among {among} media, {order}"}


def _by_prompts(predictor: Predictor, opened: Media, options: Options) -> Said:
    """Classes of media, if they have some that prompts can name."""
    # Of media: texts about them may have classes, too.
    labelled = any(labels_of(example, texts=False) for example in described(opened))
    classes = classes_of(opened, texts=False) if labelled else ()
    if len(classes) < 2:
        return
    examples = first(opened, options.limit)
    try:
        by_prompts = PromptClassifier(Retriever(predictor), classes, TEMPLATES)
    except WordlessError as error:
        yield examples, Results({}, {}, {ZERO_SHOT: str(error)}, 0.0), {}
        return
    results = evaluate_prompts(
        by_prompts,
        examples,
        max_bad_share=options.max_bad_share,
        progress=options.progress("media"),
    )
    yield examples, results, {ZERO_SHOT: f"prompts: {' / '.join(TEMPLATES)}"}


def write_suite(
    folder: str | os.PathLike,
    measured: Sequence[Measured],
    about: Mapping[str, Any],
) -> None:
    """Writes results.md, results.json and report.html, in place of earlier ones.

    Args:
      about: the checkpoint and what else should be known, by name.

    Raises:
      OSError: the folder cannot be written.
    """
    about = {**about, **origin()}
    # The page of examples last: it reads media again.
    contents = {"results.md": _markdown, "results.json": _json, "report.html": gallery}
    for name, make in contents.items():
        with staged(Path(folder) / name, overwrite=True) as partial:
            partial.write_text(make(measured, about))


def origin() -> dict[str, str]:
    """The program that measured, and when: version, the source's commit, date."""
    package = Path(__file__).resolve().parents[1]

    def git(*command: str) -> str:
        its = ["git", "-C", str(package), *command]
        out = subprocess.run(its, capture_output=True, text=True, check=True)
        return out.stdout.strip()

    found = {"version": __version__}
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        # Installed below another repository, git would name that one's commit.
        if Path(git("rev-parse", "--show-toplevel")) == package.parent:
            found["commit"] = git("describe", "--always", "--dirty", "--abbrev")
    return found | {"date": datetime.datetime.now(datetime.UTC).date().isoformat()}


def _markdown(measured: Sequence[Measured], about: Mapping[str, Any]) -> str:
    lines = [", ".join(f"{name}: {value}" for name, value in about.items()), ""]
    table = [HEADS, ("---",) * len(HEADS), *rows(measured)]
    lines += [f"| {' | '.join(cells)} |" for cells in table]
    if left := left_out(measured):
        lines += ["", f"{len(left)} left out:"]
        lines += [f"- {name}: {why}" for name, why in left.items()]
    return "\n".join(lines) + "\n"


def _json(measured: Sequence[Measured], about: Mapping[str, Any]) -> str:
    sets = [
        {"data": its.data, "split": its.split, "how": dict(its.how)}
        | its.results.to_dict()
        for its in measured
    ]
    return to_json({**about, "data": sets}, indent=1) + "\n"
