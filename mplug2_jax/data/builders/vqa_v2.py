"""VQA v2: questions about COCO's images, each answered by ten people."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mplug2_jax.data.builders.declaration import Counts, Dataset
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
        asked = read_json(find(manual, questions))["questions"]
        votes = {} if split in UNANSWERED else _votes(manual, name)
        found[split] = list(_examples(asked, votes, manual / images))
    return found


def _votes(manual: Path, name: str) -> dict[int, Any]:
    """Annotations by their question's id."""
    answered = read_json(find(manual, f"v2_mscoco_{name}_annotations.json"))
    return {its["question_id"]: its for its in answered["annotations"]}


def _examples(
    asked: list[dict[str, Any]], votes: dict[int, Any], folder: Path
) -> Iterator[Example]:
    """One for each image, in the order of the questions."""
    by_image: dict[int, list[QA]] = defaultdict(list)
    for question in asked:
        id_ = question["question_id"]
        if votes and id_ not in votes:
            raise ValueError(
                f"Question {id_} of VQA v2 has no annotation; fetch questions and "
                "annotations of one release."
            )
        by_image[question["image_id"]].append(_qa(question, votes.get(id_)))
    for image, questions in by_image.items():
        file = folder / f"COCO_{folder.name}_{image:012d}.jpg"
        yield Example(str(image), file, questions=tuple(questions))


def _qa(question: dict[str, Any], annotation: dict[str, Any] | None) -> QA:
    id_ = str(question["question_id"])
    if annotation is None:
        return QA(question["question"], (), (), id=id_)
    said = Counter(its["answer"] for its in annotation["answers"]).most_common()
    people = sum(count for _, count in said)
    return QA(
        question["question"],
        tuple(answer for answer, _ in said),
        tuple(count / people for _, count in said),
        annotation["answer_type"],
        id_,
        people,
    )


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
