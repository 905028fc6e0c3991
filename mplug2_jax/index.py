"""The index of a collection: features of its files, kept in one file of a folder.

    DIR/index.npz   features, the files' names, and which checkpoint made them

Visual states, which matching reads, are not kept: one video has as much as ten thousand
features. Whoever needs them reads the file again.
"""

import dataclasses
import json
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
from jaxtyping import Float

from mplug2_jax.checkpoint.staging import staged

FILE = "index.npz"


@dataclasses.dataclass(frozen=True)
class Index:
    """Files that can be searched.

    Attributes:
      features: unit vectors, in the order of the files.
      files: absolute paths.
      checkpoint: folder of the model that made the features.
      fingerprint: `Retriever.fingerprint` of that model.
      num_frames: of each video.
    """

    features: Float[np.ndarray, "F E"]
    files: Sequence[str]
    checkpoint: str
    fingerprint: str
    num_frames: int

    def save(self, folder: str | os.PathLike, *, overwrite: bool = False) -> None:
        """Writes the index, whole or not at all.

        Raises:
          ValueError: there is one already, and `overwrite` is False.
          OSError: writing failed.
        """
        about = {k: v for k, v in vars(self).items() if k != "features"}
        with (
            staged(Path(folder) / FILE, overwrite=overwrite) as partial,
            partial.open("wb") as file,
        ):
            np.savez(file, features=self.features, about=json.dumps(about))

    @classmethod
    def load(cls, folder: str | os.PathLike) -> Self:
        """Reads an index.

        Raises:
          ValueError: there is none, or it is damaged.
        """
        path = Path(folder) / FILE
        if not path.is_file():
            raise ValueError(
                f"{folder} is no index, it has no {FILE}; make one with "
                f"`mplug2 index FILES... --checkpoint DIR --output {folder}`."
            )
        try:
            with np.load(path, allow_pickle=False) as stored:
                index = cls(stored["features"], **json.loads(str(stored["about"])))
            if len(index.files) != len(index.features):
                raise ValueError("other numbers of files and features")
        except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} is damaged ({error}); make it anew.") from error
        return index

    def check(self, fingerprint: str) -> None:
        """Raises ValueError unless the features are of the model of `fingerprint`."""
        if fingerprint != self.fingerprint:
            raise ValueError(
                f"The index was made by another checkpoint, of {self.checkpoint} as it "
                "was then; give that one (--checkpoint), or index the files anew."
            )
