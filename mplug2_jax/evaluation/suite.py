"""Every task that a checkpoint has learned, on every data set that is annotated for it.

One table of numbers (`results.md`, and with all predictions `results.json`), and
`report.html` with the best and the worst examples.
"""

import dataclasses
import datetime
import json
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mplug2_jax import __version__
from mplug2_jax.checkpoint.staging import staged
from mplug2_jax.classifier import TEMPLATES, PromptClassifier
from mplug2_jax.data.examples import Example, labels_of
from mplug2_jax.data.faults import within
from mplug2_jax.data.opening import (
    DataConfig,
    first,
    is_texts,
    open_examples,
    open_text_examples,
    path_and_split,
)
from mplug2_jax.data.prefetch import read_ahead
from mplug2_jax.data.records import Chosen, classes_of, described, is_prepared
from mplug2_jax.data.tfds_sets import glue_task, prepared_folder
from mplug2_jax.evaluation.gallery import gallery
from mplug2_jax.evaluation.measured import HEADS, Measured, left_out, rows
from mplug2_jax.evaluation.results import Results
from mplug2_jax.evaluation.retrieval import search_results
from mplug2_jax.evaluation.runner import (
    READ_TIMEOUT,
    NothingToAskError,
    evaluate,
    evaluate_prompts,
    read_whole,
)
from mplug2_jax.evaluation.texts import evaluate_texts
from mplug2_jax.predictor import Predictor
from mplug2_jax.retriever import Retriever
from mplug2_jax.tasks.retrieval import MATCHING

Media = Sequence[Example]
Said = Iterator[tuple[Media, Results]]


@dataclasses.dataclass(frozen=True)
class Options:
    """How a suite is run.

    Attributes:
      split: of prepared sets that name none.
      media: folder of the media of annotation files.
      limit: only the first so many examples.
      max_bad_share: of lines, media and labels.
      rerank, dual_softmax: see `search_results`.
      meteor: see `score_captions`.
    """

    split: str = "test"
    media: str = ""
    limit: int | None = None
    max_bad_share: float = 0.0
    rerank: int = 16
    dual_softmax: bool = False
    meteor: bool = False


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
    decoding = _decoding(predictor)
    for data, opened in [_opened(path, options) for path in annotations]:
        ask = _of_texts if is_texts(data) else _of_media
        found = False
        for examples, results in ask(predictor, data, opened, options):
            found = True
            said = ", ".join(results.metrics) or "too many media cannot be read"
            say(f"{data.path}: {said}")
            yield Measured(data.path, _split(data), examples, results, decoding)
        if not found:
            raise ValueError(
                f"{data.path} has nothing that {predictor.origin} can be asked; leave "
                "it out."
            )


def _opened(path: str, options: Options) -> tuple[DataConfig, Sequence[Any]]:
    path, split = path_and_split(path, options.split)
    data = DataConfig(path, options.media, split)
    opened: Any = open_text_examples if is_texts(data) else open_examples
    return data, opened(data, options.max_bad_share)


def _split(data: DataConfig) -> str:
    return data.split if is_prepared(prepared_folder(data.path, data.data_dir)) else ""


def _of_texts(
    predictor: Predictor, data: DataConfig, opened: Sequence, options: Options
) -> Said:
    """Classes of texts."""
    if predictor.can("text_classification"):
        texts = first(opened, options.limit)
        glue, share = glue_task(data.path), options.max_bad_share
        yield (), evaluate_texts(predictor, texts, glue, max_bad_share=share)


def _of_media(
    predictor: Predictor, data: DataConfig, opened: Media, options: Options
) -> Said:
    """All tasks that model and annotations know."""
    examples, share = first(opened, options.limit), options.max_bad_share
    unusable: Mapping[str, str] = {}
    try:
        results = evaluate(
            predictor, examples, meteor=options.meteor, max_bad_share=share
        )
    except NothingToAskError:
        pass  # of what follows there may be something
    else:
        unusable = results.skipped
        yield examples, results
    if predictor.can("retrieval") and _searchable(examples):
        if not predictor.can("caption"):  # so that they have not been read yet
            unusable = _unreadable(predictor, examples)
        yield examples, _search(predictor, examples, unusable, options)
    if not predictor.can("zero_shot_classification"):
        return
    # Of media: texts about them may have classes, too.
    labelled = any(labels_of(example, texts=False) for example in described(opened))
    classes = classes_of(opened, texts=False) if labelled else ()
    if len(classes) > 1:
        by_prompts = PromptClassifier(Retriever(predictor), classes, TEMPLATES)
        yield examples, evaluate_prompts(by_prompts, examples, max_bad_share=share)


def _searchable(examples: Media) -> bool:
    """Whether each is one medium that a text describes."""
    return all(e.captions and not e.others for e in described(examples))


def _search(
    predictor: Predictor,
    examples: Media,
    unusable: Mapping[str, str],
    options: Options,
) -> Results:
    """Retrieval among the media that are usable; none if too many are not."""
    ids = [example.id for example in described(examples)]
    places = [place for place, id_ in enumerate(ids) if id_ not in unusable]
    if not places or len(ids) - len(places) > options.max_bad_share * len(ids):
        return Results({}, {}, unusable, 0.0)
    results = search_results(
        predictor,
        Chosen(examples, places) if unusable else examples,
        options.rerank if set(MATCHING) <= set(predictor.model.modules) else 0,
        dual_softmax=options.dual_softmax,
    )
    return dataclasses.replace(results, skipped=unusable)


def _unreadable(predictor: Predictor, examples: Media) -> dict[str, str]:
    """Why media cannot be read, by the examples' ids."""

    def read(place: int) -> Any:
        return within(READ_TIMEOUT, read_whole, predictor, examples[place])

    ids = [example.id for example in described(examples)]
    with read_ahead(read, range(len(ids))) as found:
        bad = ((ids[i], its) for i, its in found if isinstance(its, Exception))
        return {id_: str(error) for id_, error in bad}


def _decoding(predictor: Predictor) -> str:
    its = predictor.decoding
    if its.method == "beam":
        return f"beam {its.beam_size}, {its.rule or 'standard'} rule"
    return its.method


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
    """The program that measured, and when: version, commit if it has one, date."""
    here = Path(__file__).parent
    try:
        shown = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev"]
        out = subprocess.run(shown, capture_output=True, text=True, check=True)
        commit = out.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = "none"
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {"version": __version__, "commit": commit, "date": date}


def _markdown(measured: Sequence[Measured], about: Mapping[str, Any]) -> str:
    lines = [", ".join(f"{name}: {value}" for name, value in about.items()), ""]
    table = [HEADS, ("---",) * len(HEADS), *rows(measured)]
    lines += [f"| {' | '.join(cells)} |" for cells in table]
    if left := left_out(measured):
        lines += ["", f"{len(left)} media could not be used:"]
        lines += [f"- {name}: {why}" for name, why in left.items()]
    return "\n".join(lines) + "\n"


def _json(measured: Sequence[Measured], about: Mapping[str, Any]) -> str:
    sets = [
        {"data": its.data, "split": its.split, "decoding": its.decoding}
        | its.results.to_dict()
        for its in measured
    ]
    return json.dumps({**about, "data": sets}, indent=1) + "\n"
