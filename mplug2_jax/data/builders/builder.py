"""The one TFDS builder behind all data sets: writes ArrayRecord, without TensorFlow.

Every shard is finished in a folder beside the data set before TFDS puts it in its
place, so that preparing goes on where it was stopped.
"""

import dataclasses
import os
import pickle
import shutil
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from absl import logging
from array_record.python import array_record_module  # type: ignore
from tensorflow_datasets.core import file_adapters, writer
from tensorflow_datasets.core.splits import SplitDict

from mplug2_jax.data.builders import DATASETS
from mplug2_jax.data.builders.declaration import Counts, Dataset, Shard
from mplug2_jax.data.examples import Example, TextExample
from mplug2_jax.data.files import MediaFile, StoredFile
from mplug2_jax.data.records import features, to_record

Report = Callable[[str], None]
FORMAT = file_adapters.FileFormat.ARRAY_RECORD
REPORT_EVERY = 5.0  # seconds


class Mplug2Data(tfds.core.ShardBasedBuilder):
    """Prepares a declared data set.

    Args:
      dataset: one of `DATASETS`.
      data_dir: folder of all prepared data sets.
      expected: numbers to check instead of the published ones; {} checks nothing.
      report: told about progress, now and then; not through Beam.
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in DATASETS]
    MANUAL_DOWNLOAD_INSTRUCTIONS = "See `mplug2 prepare --help`."

    def __init__(
        self,
        dataset: Dataset,
        data_dir: str | os.PathLike,
        expected: Mapping[str, Counts] | None = None,
        report: Report | None = None,
    ):
        self.dataset, self.report = dataset, report
        self.expected = dataset.counts if expected is None else expected
        super().__init__(
            data_dir=os.fspath(data_dir), config=dataset.name, file_format=FORMAT
        )

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{self.dataset.name}: {self.dataset.files}",
            features=tfds.features.FeaturesDict(features(self.dataset.kind)),
            metadata=tfds.core.MetadataDict(kind=self.dataset.kind),
        )

    @property
    def parts(self) -> Path:
        """Folder of finished shards; gone when the data set is whole."""
        version = Path(self.data_dir_root) / self.name / self.dataset.name
        return version / f"{self.version}.parts"

    def _shard_iterators_per_split(self, dl_manager) -> dict[str, list["_Shard"]]:
        dataset = self.dataset
        manual = Path(dl_manager.manual_dir if dataset.manual else ".")
        splits = dataset.splits(manual, self.expected)
        counts = {name: vars(split.counts) for name, split in splits.items()}
        # Numbers are None where only reading would tell.
        self.info.metadata["counts"] = counts  # type: ignore[index]
        seen = frozenset().union(*(split.classes for split in splits.values()))
        classes = list(dataset.classes) or sorted(seen)
        self.info.metadata["classes"] = classes  # type: ignore[index]
        self._check_parts({name: split.shards for name, split in splits.items()})
        return {
            name: [
                _Shard(shard, self._part(name, i, len(split.shards)), dataset, progress)
                for i, shard in enumerate(split.shards)
            ]
            for name, split in splits.items()
            for progress in [self._progress(name, split.counts.media)]
        }

    def _download_and_prepare(self, dl_manager, download_config=None) -> None:
        """Writes the splits, and leaves out those of which only the list is here.

        Raises:
          FileNotFoundError: none is left.
        """
        super()._download_and_prepare(dl_manager, download_config)
        splits = self.info.splits.values()
        if not (filled := [split for split in splits if split.num_examples]):
            shutil.rmtree(self.parts)  # else what is fetched later would not be read
            raise FileNotFoundError(
                f"{self.dataset.name}: nothing of what its files list is here; the "
                f"manual directory must hold {self.dataset.files}."
            )
        said = "%s, split %s: nothing of what it lists is here; the split is left out"
        for split in splits:
            if not split.num_examples:
                logging.warning(said, self.dataset.name, split.name)
                for path in split.filepaths:
                    path.unlink()
        self.info.set_splits(SplitDict(filled))

    def _check_parts(self, shards: Mapping[str, Any]) -> None:
        """Drops finished shards of another state of the annotations."""
        stamp = self.parts / f"{zlib.crc32(pickle.dumps(shards)):08x}"
        if not stamp.exists():
            shutil.rmtree(self.parts, ignore_errors=True)
            self.parts.mkdir(parents=True)
            stamp.touch()

    def _part(self, split: str, index: int, count: int) -> Path:
        template = self._get_filename_template(split_name=split)
        path = template.sharded_filepath(shard_index=index, num_shards=count)
        return self.parts / Path(path).name

    def _progress(self, split: str, total: int | None) -> "Progress | None":
        return Progress(split, total, self.report) if self.report else None

    def _example_writer(self) -> "_Writer":
        return _Writer(self.parts)

    def _post_download_and_prepare_hook(self) -> None:
        left = self.parts.parent.glob(f"incomplete*_{self.version}")  # by killed runs
        for folder in (self.parts, *left):
            shutil.rmtree(folder, ignore_errors=True)


class Progress:
    """Reports how far a split is, a line every few seconds."""

    def __init__(self, split: str, total: int | None, report: Report):
        self.split, self.total, self.report = split, total, report
        self.done, self.fresh = 0, 0
        self.start = self.last = 0.0

    def add(self, items: int, fresh: bool = True) -> None:
        """Counts items; those that are not fresh were done in an earlier run."""
        now = time.monotonic()
        if not self.done:  # splits are made one after the other
            self.start = self.last = now
        self.done += items
        self.fresh += items * fresh
        if now - self.last >= REPORT_EVERY or self.done == self.total:
            self.last = now
            self.report(self._line(now - self.start))

    def _line(self, seconds: float) -> str:
        rate = self.fresh / max(seconds, 1e-9)
        of = f" of {self.total}" if self.total else ""
        line = f"{self.split}: {self.done}{of}, {rate:.1f}/s"
        if self.total and rate > 0 and self.done < self.total:
            line += f", {(self.total - self.done) / rate / 60:.1f} min left"
        return line


@dataclasses.dataclass
class _Shard:
    """Records of a shard; of one that is finished, only as many as it has."""

    read: Shard
    part: Path
    dataset: Dataset
    progress: Progress | None

    def __getstate__(self):  # Beam's workers report through Beam
        return {**vars(self), "progress": None}

    def __call__(self) -> Iterator[tuple[str, dict[str, Any] | None]]:
        if self.part.exists():
            count = array_record_module.ArrayRecordReader(str(self.part)).num_records()
            if self.progress:
                self.progress.add(count, fresh=False)
            yield from ((str(i), None) for i in range(count))
            return
        for item in self.read():
            if (record := self._record(item)) is not None:
                yield record["id"], record
            if self.progress:
                self.progress.add(1)

    def _record(self, item) -> dict[str, Any] | None:
        if isinstance(item, TextExample):
            return vars(item)
        if not isinstance(item, Example):
            return dict(zip(("id", "text"), item, strict=True))
        try:
            data, *others = map(_content, (item.media, *item.others))
        except FileNotFoundError as error:
            if self.dataset.web:
                logging.warning("left out, no file: %s", error.filename)
                return None
            raise FileNotFoundError(
                f"{self.dataset.name}: there is no {error.filename}; fetch it."
            ) from error
        return to_record(item, data, others)


def _content(file: MediaFile) -> bytes:
    return file.data if isinstance(file, StoredFile) else file.read_bytes()


class _Writer(writer.ExampleWriter):
    """Finishes shards in a folder of their own, and takes those that are there."""

    def __init__(self, parts: Path):
        super().__init__(file_format=FORMAT)
        self.parts = parts

    def write(self, path, examples: Iterable) -> None:
        """Puts the shard of that name at `path`."""
        part = self.parts / Path(path).name
        if not part.exists():
            partial = part.with_name(part.name + ".partial")
            super().write(partial, examples)
            os.replace(partial, part)
        try:
            os.link(part, path)
        except OSError:  # another file system
            shutil.copyfile(part, path)
