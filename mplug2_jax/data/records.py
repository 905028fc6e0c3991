"""Examples as records: what prepared data sets hold, and reading them back.

A record is self-contained: texts, and the media file's own bytes. Reading needs no
TensorFlow.
"""

import functools
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from mplug2_jax.data.files import StoredFile
from mplug2_jax.data.sources import QA, Example

INFO = "dataset_info.json"


def features(kind: str) -> dict[str, Any]:
    """TFDS features of a record; `kind`: video, image or text.

    Answers lie beside the questions and name theirs by its place. Seconds that were not
    given are NaN.
    """
    import tensorflow_datasets as tfds

    text = tfds.features.Text()
    if kind == "text":
        return {"id": text, "text": text}
    question = {"question": text, "id": text, "kind": text}
    answer = {"question": np.int32, "answer": text, "weight": np.float64}
    return {
        "id": text,
        "name": text,
        "media": tfds.features.Scalar(np.object_),
        "captions": tfds.features.Sequence(text),
        "questions": tfds.features.Sequence(question),
        "answers": tfds.features.Sequence(answer),
        "start": np.float64,
        "end": np.float64,
    }


def to_record(example: Example, media: bytes) -> dict[str, Any]:
    """The record of an example and its file's bytes."""
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
            for qa in example.questions
        ],
        "answers": answers,
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
    questions = [
        QA(
            _text(question),
            tuple(answer for answer, _ in its),
            tuple(weight for _, weight in its),
            _text(kind) or None,
            _text(id_) or None,
        )
        for question, kind, id_, its in zip(
            asked["question"], asked["kind"], asked["id"], given, strict=True
        )
    ]
    id_ = _text(record["id"])
    # Files of several folders may have one name; with the id it is the file's own.
    name = f"{id_}/{_text(record['name'])}"
    return Example(
        id=id_,
        media=StoredFile(name, bytes(record["media"])),
        captions=tuple(map(_text, record["captions"])),
        questions=tuple(questions),
        start=_seconds(record["start"]),
        end=_seconds(record["end"]),
    )


class Records(Sequence):
    """A split of a prepared data set: `Example`s, or texts as strings.

    Args:
      folder: DATA_DIR/NAME/CONFIG/VERSION, as `mplug2 prepare` prints it, or a copy in
        a bucket (gs://...).
      split: one that the data set has.

    Raises:
      ValueError: there is no prepared data set, or it has no such split.
      OSError: a record that is asked for is damaged, or its shard is gone.
    """

    def __init__(self, folder: str | os.PathLike, split: str):
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
        metadata = builder.info.metadata or {}
        self.kind: str = metadata["kind"]
        self.counts: dict[str, int | None] = metadata["counts"][split]
        self._length = builder.info.splits[split].num_examples
        self._builder = builder

    def __getstate__(self):  # worker processes open the files themselves
        return self.folder, self.split

    def __setstate__(self, state):
        self.__init__(*state)

    @functools.cached_property
    def _source(self):
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
        return _text(record["text"]) if self.kind == "text" else from_record(record)


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
