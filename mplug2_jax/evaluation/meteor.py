"""METEOR 1.5 by the Java program that pycocoevalcap ships, started once per score."""

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pycocoevalcap.meteor import meteor as shipped

TIMEOUT = 900.0  # seconds; 3000 captions with 20 references each take half a minute

_JAR = Path(shipped.__file__).with_name(shipped.METEOR_JAR)
# The program reads numbers and lower-cases in the machine's language unless told.
_JAVA = ("-Xmx2G", "-Dfile.encoding=UTF-8", "-Duser.language=en", "-Duser.country=US")


class MeteorError(OSError):
    """METEOR cannot be had here; the message says why and what to do."""


def meteor_score(
    captions: Sequence[str],
    references: Sequence[Sequence[str]],
    timeout: float = TIMEOUT,
) -> float:
    """Scores captions, all together, against their references.

    Args:
      captions: one per item, tokens joined by blanks.
      references: of the same items, likewise; each has at least one.
      timeout: seconds after which the program is stopped.

    Returns:
      METEOR in [0, 1], of the sums over all captions.

    Raises:
      MeteorError: there is no Java, or the program fails or takes too long.
      ValueError: nothing to score, lengths differ, or an item has no reference.
    """
    if not captions or len(captions) != len(references) or not all(references):
        raise ValueError(
            f"METEOR needs captions with one reference or more each; there are "
            f"{len(captions)} captions, {len(references)} sets of references, "
            f"{sum(not its for its in references)} of them empty"
        )
    # The program wants equally many per caption, and takes the first of the best.
    width = max(map(len, references))
    filled = ((*its, *[its[0]] * (width - len(its))) for its in references)
    padded = [text for its in filled for text in its]
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder, "captions"), Path(folder, "references")
        for file, texts in zip(files, (captions, padded), strict=True):
            lines = (" ".join(text.split()) + "\n" for text in texts)
            file.write_text("".join(lines), encoding="utf-8", newline="\n")
        options = ("-l", "en", "-norm", "-q", "-r", str(width))
        said = _run(("-jar", str(_JAR), *map(str, files), *options), timeout)
    try:
        return float(said.split()[-1])
    except (IndexError, ValueError):
        raise MeteorError(f"METEOR is left out: no score but {said[:200]!r}") from None


def _run(arguments: Sequence[str], timeout: float) -> str:
    """What Java printed; it is gone when this returns or raises."""
    java = shutil.which("java")
    if java is None:
        raise MeteorError(
            "METEOR is left out, as it needs Java: install a Java runtime (8 or later; "
            "Debian: default-jre-headless) and have `java` on PATH"
        )
    try:
        done = subprocess.run(
            (java, *_JAVA, *arguments),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        raise MeteorError(f"METEOR is left out: no score in {timeout:g} s") from None
    except OSError as error:
        reason = f"{java} does not start: {error}"
        raise MeteorError(f"METEOR is left out: {reason}") from None
    if done.returncode:
        lines = (done.stderr + done.stdout).splitlines()
        said = " ".join(" ".join(x for x in lines if "Picked up" not in x).split())
        reason = said[:200] or "it says nothing"
        raise MeteorError(
            f"METEOR is left out: its program ended with {done.returncode}: {reason}"
        )
    return done.stdout
