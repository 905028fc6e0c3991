"""What is known about media and texts: captions, questions, labels, regions."""

from dataclasses import dataclass, replace

from mplug2_jax.data.files import MediaFile, StoredFile


@dataclass(frozen=True)
class QA:
    """A question and its accepted answers with their weights, best known first.

    Questions of a test that is scored elsewhere have no answers.
    """

    question: str
    answers: tuple[str, ...]
    weights: tuple[float, ...]
    kind: str | None = None
    id: str | None = None
    people: int = 0  # whose answers the weights are shares of; 0: they are not

    @property
    def votes(self) -> list[str]:
        """The answers, each as often as people gave it; [] where nobody counted."""
        counts = (round(weight * self.people) for weight in self.weights)
        return [a for a, n in zip(self.answers, counts, strict=True) for _ in range(n)]


Box = tuple[float, float, float, float]


KIND = "kind of medium"


@dataclass(frozen=True)
class Label:
    """The class of a medium, or of a text about it; in regression a number as text.

    With the id `KIND` it is no class: its medium's captions are scored also by it.
    """

    label: str
    text: str = ""
    id: str | None = None


@dataclass(frozen=True)
class Region:
    """A phrase, and where what it names is: x0, y0, x1, y1, shares of the image."""

    phrase: str
    box: Box
    id: str | None = None


@dataclass(frozen=True)
class Example:
    """What is known about one medium, or its segment from `start` to `end` seconds.

    Attributes:
      others: images that belong to the first one, `media`.
    """

    id: str
    media: MediaFile
    captions: tuple[str, ...] = ()
    questions: tuple[QA, ...] = ()
    start: float | None = None
    end: float | None = None
    labels: tuple[Label, ...] = ()
    regions: tuple[Region, ...] = ()
    others: tuple[MediaFile, ...] = ()

    @property
    def kind(self) -> str | None:
        """Of the medium, such as NoCaps' domain."""
        return next((its.label for its in self.labels if its.id == KIND), None)

    @property
    def answered(self) -> tuple[QA, ...]:
        """The questions whose answer is known."""
        return tuple(qa for qa in self.questions if qa.answers)


@dataclass(frozen=True)
class TextExample:
    """The class of a text, or of two; in regression a number as text."""

    id: str
    text: str
    second: str = ""
    label: str = ""


def without_bytes(example: Example) -> Example:
    """The example with its media by name alone, if they were held in memory."""

    def named(file: MediaFile) -> MediaFile:
        return StoredFile(file.name, b"") if isinstance(file, StoredFile) else file

    others = tuple(map(named, example.others))
    return replace(example, media=named(example.media), others=others)


def labels_of(example: Example | TextExample, texts: bool | None = None) -> list[str]:
    """The example's classes.

    Args:
      texts: those of texts about a medium, or those of the medium itself; None: all.
    """
    if isinstance(example, TextExample):
        return [example.label]
    classes = (its for its in example.labels if its.id != KIND)
    return [its.label for its in classes if texts in (None, bool(its.text))]
