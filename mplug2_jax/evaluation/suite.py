"""Every task that a checkpoint can do, on every data set that is annotated for it.

One table of numbers (`results.md`, and with all predictions `results.json`), and
`report.html` with the best and the worst examples.
"""

import contextlib
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
from mplug2_jax.data.opening import (
    DataConfig,
    first,
    open_examples,
    open_text_examples,
)
from mplug2_jax.data.records import classes_of, described, is_prepared
from mplug2_jax.data.sources import MEDIUM_KEYS
from mplug2_jax.data.tfds_sets import glue_task, open_records, prepared_folder
from mplug2_jax.evaluation.gallery import gallery
from mplug2_jax.evaluation.results import Results, shown
from mplug2_jax.evaluation.retrieval import search_results
from mplug2_jax.evaluation.runner import (
    NothingToAskError,
    evaluate,
    evaluate_prompts,
)
from mplug2_jax.evaluation.texts import evaluate_texts
from mplug2_jax.predictor import Predictor
from mplug2_jax.retriever import Retriever
from mplug2_jax.tasks.retrieval import CONTRAST, MATCHING

Media = Sequence[Example]


@dataclasses.dataclass(frozen=True)
class Measured:
    """What was measured on one data set.

    Attributes:
      data: its path.
      examples: to show media of; none of texts.
      decoding: how texts were written, in a word or two.
    """

    data: str
    split: str
    examples: Media
    results: Results
    decoding: str

    @property
    def name(self) -> str:
        """A data set's name: of a prepared one without its version."""
        place = Path(self.data)
        return place.parent.name if is_prepared(self.data) else place.name


@dataclasses.dataclass(frozen=True)
class Options:
    """How a suite is run.

    Attributes:
      split: of prepared sets.
      media: folder of the media of annotation files.
      limit: only the first so many examples.
      max_bad_share: of lines, media and labels.
      rerank: see `search_results`.
      meteor: see `score_captions`.
    """

    split: str = "test"
    media: str = ""
    limit: int | None = None
    max_bad_share: float = 0.0
    rerank: int = 16
    meteor: bool = False


def run_suite(
    predictor: Predictor,
    annotations: Sequence[str],
    options: Options = Options(),
    say: Callable[[str], None] = lambda text: None,
) -> list[Measured]:
    """Asks all that can be asked, data set by data set.

    Args:
      annotations: files of JSON lines, folders of prepared sets.
      say: told what is being done.

    Raises:
      ValueError: a data set cannot be opened, or has nothing that the model can do.
    """
    found, decoding = [], _decoding(predictor)
    for path in annotations:
        data = DataConfig(path, options.media, options.split)
        its = (_of_texts if is_texts(data) else _of_media)(predictor, data, options)
        before = len(found)
        for examples, results in its:
            say(f"{path}: {', '.join(results.metrics)}")
            found.append(Measured(path, _split(data), examples, results, decoding))
        if len(found) == before:
            raise ValueError(
                f"{path} has nothing that a model of "
                f"{', '.join(predictor.model.modules)} can be asked; leave it out."
            )
    return found


def _split(data: DataConfig) -> str:
    return data.split if is_prepared(prepared_folder(data.path, data.data_dir)) else ""


Said = Iterator[tuple[Media, Results]]


def _of_texts(predictor: Predictor, data: DataConfig, options: Options) -> Said:
    """Classes of texts."""
    if predictor.can("text_classification"):
        opened = open_text_examples(data, options.max_bad_share)
        texts = first(opened, options.limit)
        glue, share = glue_task(data.path), options.max_bad_share
        yield (), evaluate_texts(predictor, texts, glue, max_bad_share=share)


def _of_media(predictor: Predictor, data: DataConfig, options: Options) -> Said:
    """All tasks that model and annotations know."""
    opened = open_examples(data, options.max_bad_share)
    examples, share = first(opened, options.limit), options.max_bad_share
    modules = set(predictor.model.modules)
    with contextlib.suppress(NothingToAskError):
        yield (
            examples,
            evaluate(predictor, examples, meteor=options.meteor, max_bad_share=share),
        )
    if not set(CONTRAST) <= modules:
        return
    if all(example.captions for example in described(examples)):
        count = options.rerank if set(MATCHING) <= modules else 0
        yield examples, search_results(predictor, examples, count)
    # Of media: texts about them may have classes, too.
    labelled = any(labels_of(example, texts=False) for example in described(opened))
    classes = classes_of(opened, texts=False) if labelled else ()
    if len(classes) > 1:
        by_prompts = PromptClassifier(Retriever(predictor), classes, TEMPLATES)
        yield examples, evaluate_prompts(by_prompts, examples, max_bad_share=share)


def is_texts(data: DataConfig) -> bool:
    """Whether the data are texts with labels, without media."""
    path = prepared_folder(data.path, data.data_dir)
    if is_prepared(path):
        return open_records(path, data.split).kind == "labelled_text"
    try:
        with open(data.path, encoding="utf-8-sig") as file:
            line = json.loads(next((line for line in file if line.strip()), "{}"))
    except (OSError, ValueError):
        return False  # opening says what is wrong
    keys = set(line) if isinstance(line, dict) else set()
    return "text" in keys and not keys & {*MEDIUM_KEYS, "images"}


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
    contents = {
        "results.md": _markdown(measured, about),
        "results.json": _json(measured, about),
        "report.html": gallery(measured, about),
    }
    for name, text in contents.items():
        with staged(Path(folder) / name, overwrite=True) as partial:
            partial.write_text(text)


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


def rows(measured: Sequence[Measured]) -> Iterator[tuple[str, ...]]:
    """Cells of the table: data, split, task, n, numbers, decoding."""
    for its in measured:
        for task, metrics in its.results.metrics.items():
            records = its.results.records.get(task, ())
            n = metrics.get("n", len(records))
            written = its.decoding if task in ("caption", "qa", "vqa") else ""
            numbers = ", ".join(
                f"{name.replace('_', ' ')} {shown(name, value, 1)}"
                for name, value in metrics.items()
                if isinstance(value, int | float) and name != "n"
            )
            yield (its.name, its.split, task, f"{n:g}", numbers, written)


HEADS = ("data", "split", "task", "n", "numbers, shares times 100", "decoding")


def _markdown(measured: Sequence[Measured], about: Mapping[str, Any]) -> str:
    lines = [", ".join(f"{name}: {value}" for name, value in about.items()), ""]
    table = [HEADS, ("---",) * len(HEADS), *rows(measured)]
    lines += [f"| {' | '.join(cells)} |" for cells in table]
    if left := {i: why for its in measured for i, why in its.results.skipped.items()}:
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
