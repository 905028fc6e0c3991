"""VQA v2: questions about COCO's images, each answered by ten people."""

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from mplug2_jax.data.builders.declaration import Counts, Dataset
from mplug2_jax.data.builders.entries import by_id, text_of, usable
from mplug2_jax.data.builders.reading import find, read_json
from mplug2_jax.data.examples import QA, Example

# By split: what its files are called after, and its images.
SPLITS = {
    "train": ("train2014", "train2014"),
    "validation": ("val2014", "val2014"),
    "test": ("test2015", "test2015"),
    "test_dev": ("test-dev2015", "test2015"),
}
UNANSWERED = ("test", "test_dev")  # scored by the server of visualqa.org alone
OPTIONAL = ("test_dev",)  # a part of test


def _splits(manual: Path) -> dict[str, list[Example]]:
    found = {}
    for split, (name, images) in SPLITS.items():
        questions = f"v2_OpenEnded_mscoco_{name}_questions.json"
        if split in OPTIONAL and not (manual / questions).exists():
            continue
        votes = None if split in UNANSWERED else _votes(manual, name)
        found[split] = _examples(find(manual, questions), votes, manual / images)
    return found


def _votes(manual: Path, name: str) -> dict[str, Any]:
    """Annotations by their question's id."""
    file = find(manual, f"v2_mscoco_{name}_annotations.json")
    return by_id(file, read_json(file, "annotations"), "question_id")


def _examples(file: Path, votes: dict[str, Any] | None, folder: Path) -> list[Example]:
    """One for each image, in the order of the questions."""

    def parse(question: Any) -> tuple[tuple[str, Path], QA]:
        image = text_of(question, "image_id")
        path = folder / f"COCO_{folder.name}_{image:0>12}.jpg"
        return (image, path), _qa(question, votes)

    by_image: dict[tuple[str, Path], tuple[QA, ...]] = defaultdict(tuple)
    for image, qa in usable(file, read_json(file, "questions"), parse, "question"):
        by_image[image] += (qa,)
    return [Example(*image, questions=qas) for image, qas in by_image.items()]


def _qa(question: Any, votes: dict[str, Any] | None) -> QA:
    text, id_ = text_of(question, "question"), text_of(question, "question_id")
    if votes is None:
        return QA(text, (), (), id=id_)
    if id_ not in votes:
        raise ValueError(
            f"{id_} has no annotation; fetch questions and annotations of one release"
        )
    answers, kind = votes[id_]["answers"], votes[id_]["answer_type"]
    said = Counter(its["answer"] for its in answers).most_common()
    weights = tuple(count / len(answers) for _, count in said)
    return QA(text, tuple(its for its, _ in said), weights, kind, id_, len(answers))


# visualqa.org/download; test-dev: huggingface.co/datasets/HuggingFaceM4/VQAv2.
COUNTS = {
    "train": Counts(82783, questions=443757),
    "validation": Counts(40504, questions=214354),
    "test": Counts(81434, questions=447793),
}
REPORTED = {"test_dev": Counts(36807, questions=107394)}
FILES = (
    "v2_OpenEnded_mscoco_{train2014,val2014,test2015}_questions.json, "
    "v2_mscoco_{train2014,val2014}_annotations.json, train2014/, val2014/, test2015/; "
    "if wanted v2_OpenEnded_mscoco_test-dev2015_questions.json"
)
DATASETS = (Dataset("vqa_v2", "image", _splits, FILES, COUNTS, REPORTED),)
