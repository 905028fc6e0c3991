"""TFDS's own data sets, read from ArrayRecord: GLUE, ImageNet, CIFAR and their like.

`tfds:glue/sst2` stands for the newest version under DATA_DIR/glue/sst2, which `mplug2
prepare tfds:glue/sst2` makes. What a record's fields mean follows from their names
(`TEXTS`, `IMAGE`, `LABEL`), so that other classification sets of TFDS work, too.
Reading needs no TensorFlow; some of TFDS's builders need it to prepare.
"""

import importlib
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from mplug2_jax.data.examples import Example, Label, TextExample
from mplug2_jax.data.files import StoredFile
from mplug2_jax.data.records import INFO, Records

PREFIX = "tfds:"
IMAGE, LABEL = "image", "label"
# Fields of the first text and the second, if there is one; of QNLI the question is the
# first. The first entry counts whose fields a data set has.
TEXTS = (
    ("premise", "hypothesis"),  # MNLI, SNLI
    ("question1", "question2"),  # QQP
    ("sentence1", "sentence2"),  # RTE, MRPC, STS-B
    ("question", "sentence"),  # QNLI
    ("sentence",),  # SST-2, CoLA
    ("text",),  # IMDB, AG News
)
# Examples by split of the sets that configs/ names: tensorflow.org/datasets/catalog.
_PARTS = ("train", "validation", "test")
_MNLI = tuple(
    f"{part}_{how}" for part in _PARTS[1:] for how in ("matched", "mismatched")
)
COUNTS: Mapping[str, Mapping[str, int]] = {
    "glue/cola": dict(zip(_PARTS, (8551, 1043, 1063), strict=True)),
    "glue/sst2": dict(zip(_PARTS, (67349, 872, 1821), strict=True)),
    "glue/mrpc": dict(zip(_PARTS, (3668, 408, 1725), strict=True)),
    "glue/qqp": dict(zip(_PARTS, (363846, 40430, 390965), strict=True)),
    "glue/stsb": dict(zip(_PARTS, (5749, 1500, 1379), strict=True)),
    "glue/qnli": dict(zip(_PARTS, (104743, 5463, 5463), strict=True)),
    "glue/rte": dict(zip(_PARTS, (2490, 277, 3000), strict=True)),
    "glue/mnli": {"train": 392702}
    | dict(zip(_MNLI, (9815, 9832, 9796, 9847), strict=True)),
    "cifar10": {"train": 50000, "test": 10000},
    "cifar100": {"train": 50000, "test": 10000},
    "imagenet2012": {"train": 1281167, "validation": 50000},
}
UNLABELLED = -1  # what TFDS has in place of labels that nobody published
# TFDS imports its modules one after the other, and stops at one that needs TensorFlow.
MODULES = ("text", "image_classification")


def is_named(path: str | os.PathLike) -> bool:
    """Whether the path is a data set's name, tfds:NAME, rather than a folder."""
    return os.fspath(path).startswith(PREFIX)


def prepared_folder(path: str | os.PathLike, data_dir: str | os.PathLike = "") -> str:
    """The folder of the newest version of tfds:NAME; other paths stay as they are.

    Args:
      data_dir: of all prepared data sets; empty: TFDS's own, ~/tensorflow_datasets.

    Raises:
      ValueError: it is not prepared there.
    """
    if not is_named(path):
        return os.fspath(path)
    from tensorflow_datasets.core import Version, constants

    name = os.fspath(path).removeprefix(PREFIX)
    root = epath.Path(data_dir or constants.DATA_DIR).expanduser()
    folder = root / name
    versions = [
        version
        for version in (folder.iterdir() if folder.is_dir() else ())
        if Version.is_valid(version.name) and (version / INFO).exists()
    ]
    if not versions:
        raise ValueError(
            f"{path} is not prepared in {root}; run `mplug2 prepare {path} --data-dir "
            f"{root}`, or name the folder of your data sets with data_dir."
        )
    return os.fspath(max(versions, key=lambda v: Version(v.name)))


def glue_task(path: str | os.PathLike) -> str:
    """The task of GLUE that a name or a folder of TFDS stands for; "" if it is none.

    Of MNLI alike, whether matched, mismatched or both. WNLI and the diagnostic set are
    none: nobody scores them.
    """
    place = os.fspath(path).removeprefix(PREFIX).rstrip("/")
    found = re.search(r"(?:^|/)glue/([a-z0-9]+)(?:_[a-z]+)?(?:/[\d.]+)?$", place)
    return found.group(1) if found and f"glue/{found.group(1)}" in COUNTS else ""


def is_tfds(folder: str | os.PathLike) -> bool:
    """Whether a prepared data set is one of TFDS's own, not made by our builder."""
    info = json.loads((epath.Path(folder) / INFO).read_text())
    return info.get("name") != "mplug2_data"


def open_records(folder: str | os.PathLike, split: str) -> Records:
    """A split of a prepared data set, ours or TFDS's.

    Raises: as `Records`.
    """
    if (epath.Path(folder) / INFO).exists() and is_tfds(folder):
        return TfdsRecords(folder, split)
    return Records(folder, split)


class TfdsRecords(Records):
    """A split of a data set of TFDS's own: `TextExample`s, or `Example`s of images.

    Attributes:
      name: TFDS's, such as glue/sst2.

    Raises:
      ValueError: as `Records`; it has neither texts nor images with labels, is stored
        in another format, or its labels are secret, as those of GLUE's test splits.
    """

    def __init__(self, folder: str | os.PathLike, split: str):
        self._open(folder, split)
        info = self._builder.info
        self.name = info.full_name.rsplit("/", 1)[0]
        fields: Any = info.features
        self.kind, self._texts = self._fields(fields)
        self.counts = {"labels": self._length}
        self.classes = tuple(getattr(fields[LABEL], "names", None) or ())
        if self._length and self.kind == "labelled_text":
            self[0]  # a split without labels is refused at once

    def _fields(self, features: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
        """Kind of the records, and the names of their texts."""
        its_format: Any = self._builder.info.file_format
        if its_format.value != "array_record":
            raise ValueError(
                f"{self.folder} is stored as {its_format.value}; expected "
                "ArrayRecord: prepare it anew with `mplug2 prepare`."
            )
        texts = [names for names in TEXTS if set(names) <= set(features)]
        if LABEL in features and (texts or IMAGE in features):
            return ("labelled_text", texts[0]) if texts else ("image", ())
        raise ValueError(
            f"{self.folder} has the fields {sorted(features)}; expected {LABEL} and "
            f"{IMAGE}, or {LABEL} and texts: "
            f"{', '.join(' with '.join(names) for names in TEXTS)}."
        )

    def _data_source(self):
        import tensorflow_datasets as tfds

        skip = {IMAGE: tfds.decode.SkipDecoding()} if self.kind == "image" else None
        return self._builder.as_data_source(self.split, decoders=skip)  # type: ignore

    def _parsed(self, record: Mapping[str, Any], place: int) -> Any:
        id_, label = f"{self.split}/{place}", self._label(record[LABEL], place)
        if self.kind == "image":
            file = StoredFile(f"{self.name}/{id_}", bytes(record[IMAGE]))
            return Example(id_, file, labels=(Label(label),))
        texts = [record[name].decode() for name in self._texts]
        return TextExample(id_, *texts, label=label)

    def _label(self, value: Any, place: int) -> str:
        if value == UNLABELLED:
            raise ValueError(
                f"{self.name}, split {self.split}: example {place} has no label (its "
                "labels are not published); train and score on other splits."
            )
        if self.classes:
            return self.classes[int(value)]
        return str(np.float32(value))  # 3.8, not 3.799999952316284


def prepare(
    path: str,
    data_dir: str | os.PathLike,
    manual_dir: str | os.PathLike | None = None,
    report: Callable[[str], None] = print,
    any_counts: bool = False,
) -> Path:
    """Downloads tfds:NAME and writes it as ArrayRecord; returns its folder.

    Args:
      manual_dir: where you put files that TFDS may not fetch (ImageNet's).
      any_counts: takes other numbers of examples than `COUNTS` has.

    Raises:
      ValueError: TFDS knows no such data set, needs TensorFlow to prepare it, lacks its
        files, or has found other numbers of examples in them.
      OSError: the files cannot be fetched.
    """
    import tensorflow_datasets as tfds

    name = path.removeprefix(PREFIX)
    builder = _builder(name, data_dir)
    if builder.data_path.exists():
        report("prepared before; remove the folder to make it anew")
    manual = None if manual_dir is None else os.fspath(manual_dir)
    config = tfds.download.DownloadConfig(manual_dir=manual)
    try:
        builder.download_and_prepare(download_config=config)
    except ModuleNotFoundError as error:
        raise _missing(name, error) from error
    except (AssertionError, tfds.download.DownloadError) as error:
        raise ValueError(
            f"TFDS cannot prepare {name}: {error}; check the connection and "
            "--manual-dir."
        ) from error
    for split, its in builder.info.splits.items():
        report(f"{split}: {its.num_examples} examples, {its.num_bytes >> 20} MiB")
    found = {split: its.num_examples for split, its in builder.info.splits.items()}
    for split, number in COUNTS.get(name, {}).items() if not any_counts else ():
        if found.get(split, 0) != number:
            raise ValueError(
                f"{name}, split {split}: {found.get(split, 0)} examples found, "
                f"{number} expected; remove {builder.data_path} and fetch the files "
                "again, or take what is there with --any-counts."
            )
    return Path(builder.data_path)


def _builder(name: str, data_dir: str | os.PathLike) -> Any:
    from tensorflow_datasets.core import registered

    for module in MODULES:
        importlib.import_module(f"tensorflow_datasets.{module}")
    short, _, config = name.partition("/")
    try:
        made: Any = registered.imported_builder_cls(short)
        if config and config not in made.builder_configs:
            raise ValueError(
                f"TFDS's {short} has no {config!r}; expected one of "
                f"{sorted(made.builder_configs)}."
            )
        place = {"data_dir": os.fspath(data_dir), "file_format": "array_record"}
        return made(config=config or None, **place)
    except registered.DatasetNotFoundError as error:
        raise ValueError(f"TFDS has no data set {short!r}; check its name.") from error
    except ModuleNotFoundError as error:
        raise _missing(name, error) from error


def _missing(name: str, error: ModuleNotFoundError) -> ValueError:
    found = re.search("No module named '([^'.]+)", str(error))
    module = found.group(1) if found else error.name
    return ValueError(
        f"TFDS prepares {name} with the package {module}, which is missing; pip "
        f"install {module} (what is prepared is read without it)."
    )
