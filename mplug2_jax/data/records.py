"""Examples as records: what prepared data sets hold, and reading them back.

A record is self-contained: texts, and the media file's own bytes. Reading needs no
TensorFlow.
"""

import functools
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from mplug2_jax.data.examples import (
    QA,
    Example,
    Label,
    Region,
    TextExample,
    labels_of,
    without_bytes,
)
from mplug2_jax.data.files import StoredFile

INFO = "dataset_info.json"


def features(kind: str) -> dict[str, Any]:
    """TFDS features of a record; `kind`: video, image, text or labelled_text.

    Answers lie beside the questions and name theirs by its place. Seconds that were not
    given are NaN. Sets of an earlier version lack labels, regions, others and people.
    """
    import tensorflow_datasets as tfds

    text = tfds.features.Text()
    if kind == "text":
        return {"id": text, "text": text}
    if kind == "labelled_text":
        return {"id": text, "text": text, "second": text, "label": text}
    question = {"question": text, "id": text, "kind": text, "people": np.int32}
    box = tfds.features.Tensor(shape=(4,), dtype=np.float32)
    other = {"name": text, "media": tfds.features.Scalar(np.object_)}
    answer = {"question": np.int32, "answer": text, "weight": np.float64}
    return {
        "id": text,
        "name": text,
        "media": tfds.features.Scalar(np.object_),
        "captions": tfds.features.Sequence(text),
        "questions": tfds.features.Sequence(question),
        "answers": tfds.features.Sequence(answer),
        "labels": tfds.features.Sequence({"label": text, "text": text, "id": text}),
        "regions": tfds.features.Sequence({"phrase": text, "box": box, "id": text}),
        "others": tfds.features.Sequence(other),
        "start": np.float64,
        "end": np.float64,
    }


def to_record(
    example: Example, media: bytes, others: Sequence[bytes] = ()
) -> dict[str, Any]:
    """The record of an example and its files' bytes."""
    answers = [
        {"question": place, "answer": answer, "weight": weight}
        for place, qa in enumerate(example.questions)
        for answer, weight in zip(qa.answers, qa.weights, strict=True)
    ]
    return {
        "id": example.id,
        "name": os.path.basename(str(example.media)),
        "media": media,
        "captions": list(example.captions),
        "questions": [
            {"question": qa.question, "id": qa.id or "", "kind": qa.kind or ""}
            | {"people": qa.people}
            for qa in example.questions
        ],
        "answers": answers,
        "labels": [
            {"label": its.label, "text": its.text, "id": its.id or ""}
            for its in example.labels
        ],
        "regions": [
            {"phrase": its.phrase, "box": its.box, "id": its.id or ""}
            for its in example.regions
        ],
        "others": [
            {"name": os.path.basename(str(file)), "media": data}
            for file, data in zip(example.others, others, strict=True)
        ],
        "start": math.nan if example.start is None else example.start,
        "end": math.nan if example.end is None else example.end,
    }


def from_record(record: Mapping[str, Any]) -> Example:
    """The example of a record; its medium stays in memory."""
    asked, answers = record["questions"], record["answers"]
    given: list[list[tuple[str, float]]] = [[] for _ in asked["question"]]
    for place, answer, weight in zip(
        answers["question"], answers["answer"], answers["weight"], strict=True
    ):
        given[int(place)].append((_text(answer), float(weight)))
    people = asked.get("people", [0] * len(given))
    questions = [
        QA(
            _text(question),
            tuple(answer for answer, _ in its),
            tuple(weight for _, weight in its),
            _text(kind) or None,
            _text(id_) or None,
            int(number),
        )
        for question, kind, id_, number, its in zip(
            asked["question"], asked["kind"], asked["id"], people, given, strict=True
        )
    ]
    id_ = _text(record["id"])
    labels = [
        Label(_text(label), _text(text), _text(own) or None)
        for label, text, own in _rows(record, "labels", "label", "text", "id")
    ]
    regions = [
        Region(_text(phrase), tuple(map(float, box)), _text(own) or None)  # type: ignore
        for phrase, box, own in _rows(record, "regions", "phrase", "box", "id")
    ]
    others = [
        StoredFile(f"{id_}/{_text(name)}", bytes(data))
        for name, data in _rows(record, "others", "name", "media")
    ]
    # Files of several folders may have one name; with the id it is the file's own.
    name = f"{id_}/{_text(record['name'])}"
    return Example(
        id=id_,
        media=StoredFile(name, bytes(record["media"])),
        captions=tuple(map(_text, record["captions"])),
        questions=tuple(questions),
        start=_seconds(record["start"]),
        end=_seconds(record["end"]),
        labels=tuple(labels),
        regions=tuple(regions),
        others=tuple(others),
    )


def _rows(record: Mapping[str, Any], name: str, *columns: str) -> Iterator[tuple]:
    """Rows of a table of a record; none where an earlier version had no such table."""
    if name in record:
        yield from zip(*(record[name][column] for column in columns), strict=True)


class Records(Sequence):
    """A split of a prepared data set: `Example`s, `TextExample`s, or texts as strings.

    Attributes:
      kind: video, image, text or labelled_text.
      counts: media, captions, questions, ... of the split; None where nobody knows.
      classes: names of the labels, if the data set has its own.

    Args:
      folder: DATA_DIR/NAME/CONFIG/VERSION, as `mplug2 prepare` prints it, or a copy in
        a bucket (gs://...).
      split: one that the data set has.

    Raises:
      ValueError: there is no prepared data set, or it has no such split.
      OSError: a record that is asked for is damaged, or its shard is gone.
    """

    def __init__(self, folder: str | os.PathLike, split: str):
        self._open(folder, split)
        metadata = self._builder.info.metadata or {}
        self.kind: str = metadata["kind"]
        self.counts: dict[str, int | None] = metadata["counts"][split]
        self.classes: tuple[str, ...] = tuple(metadata.get("classes") or ())

    def _open(self, folder: str | os.PathLike, split: str) -> None:
        import tensorflow_datasets as tfds

        self.folder, self.split = os.fspath(folder), split
        if not is_prepared(folder):
            raise ValueError(
                f"{folder} is no prepared data set (it has no {INFO}); expected the "
                "folder that `mplug2 prepare` printed."
            )
        builder = tfds.builder_from_directory(self.folder)
        if split not in builder.info.splits:
            raise ValueError(
                f"{folder} has no split {split!r}; expected one of "
                f"{sorted(builder.info.splits)}."
            )
        self._length = builder.info.splits[split].num_examples
        self._builder = builder

    def __getstate__(self):  # worker processes open the files themselves
        return self.folder, self.split

    def __setstate__(self, state):
        self.__init__(*state)

    @functools.cached_property
    def _source(self):
        return self._data_source()

    @functools.cached_property
    def described(self) -> list[Example]:
        """The examples without the bytes of their media; every record is read once."""
        return [without_bytes(example) for example in self]

    def _data_source(self):
        return self._builder.as_data_source(self.split)  # type: ignore

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, place):
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        try:
            record = self._source[place % len(self)]
        except (RuntimeError, ValueError) as error:  # of the reader of records
            raise OSError(
                f"record {place} of {self.folder}, split {self.split}, is damaged or "
                f"missing ({error})"
            ) from error
        return self._parsed(record, place % len(self))

    def _parsed(self, record: Mapping[str, Any], place: int) -> Any:
        if self.kind == "text":
            return _text(record["text"])
        if self.kind == "labelled_text":
            return TextExample(**{name: _text(value) for name, value in record.items()})
        return from_record(record)


def described(examples: Sequence[Example]) -> Sequence[Example]:
    """What is known about examples; the media of records are left on the disk."""
    return examples.described if isinstance(examples, Records) else examples


def classes_of(
    examples: Sequence[Example] | Sequence[TextExample], texts: bool | None = None
) -> tuple[str, ...]:
    """The classes of a data set: those it declares, else all labels, sorted.

    Args:
      texts: see `labels_of`.
    """
    its: Any = examples
    if isinstance(examples, Records):
        if examples.classes:
            return examples.classes
        if examples.kind != "labelled_text":
            its = examples.described
    return tuple(sorted({label for one in its for label in labels_of(one, texts)}))


def is_prepared(folder: str | os.PathLike) -> bool:
    """Whether the folder, of this machine or in a bucket, holds a prepared data set.

    Raises:
      ValueError: what reads the bucket is not installed.
    """
    try:
        return (epath.Path(folder) / INFO).exists()
    except ImportError as error:
        raise ValueError(
            f"{folder} is in a bucket, and what reads it is missing ({error}); install "
            "gcsfs, or mount the bucket."
        ) from error


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _seconds(value: Any) -> float | None:
    return None if math.isnan(value) else float(value)
