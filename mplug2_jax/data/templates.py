"""Instructions of pretraining: what the text encoder reads, and what is to be written.

The paper (figure 1) poses every generation task as an instruction, but lists none;
"What does the image describe?" is its example. The rest of the wording is ours. To
change an instruction, or to add one, edit `TEMPLATES`; nothing else knows them.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

Kind = Literal["captioning", "question_answering", "text_continuation"]


class Instruction(NamedTuple):
    """A source for the encoder and its target for the decoder, without special tokens.

    In templates `{medium}` is "video" or "image".
    """

    source: str
    target: str


# Each kind may use {caption}, {question} and {answer} of an example, and of the caption
# its {beginning} and {rest}, cut between two words.
TEMPLATES: Mapping[Kind, tuple[Instruction, ...]] = {
    "captioning": (
        Instruction("what does the {medium} describe?", "{caption}"),
        Instruction("describe the {medium}.", "{caption}"),
        Instruction("what happens in the {medium}?", "{caption}"),
    ),
    "question_answering": (
        Instruction("{question}", "{answer}"),
        Instruction("question: {question} answer:", "{answer}"),
        Instruction("look at the {medium} and answer: {question}", "{answer}"),
    ),
    "text_continuation": (
        Instruction("continue: {beginning}", "{rest}"),
        Instruction("{beginning}", "{rest}"),
    ),
}
KINDS: tuple[Kind, ...] = tuple(TEMPLATES)
# How a model that was pretrained, and no more, is asked for captions.
CAPTION_INSTRUCTION = TEMPLATES["captioning"][0].source.format(medium="video")


def instruct(
    kind: Kind,
    *,
    number: int,
    is_video: bool,
    caption: str = "",
    question: str = "",
    answer: str = "",
) -> Instruction:
    """Fills a template of `kind`; `number` decides which one, and where to cut.

    A caption of one word cannot be continued and is asked for as a whole.

    Args:
      number: any non-negative integer, such as a random one of the example.

    Raises:
      ValueError: an unknown kind, or the example lacks what the kind needs.
    """
    if kind not in TEMPLATES:
        raise ValueError(f"There is no instruction {kind!r}; expected one of {KINDS}.")
    given = {"caption": caption, "question": question, "answer": answer}
    needed = ("question", "answer") if kind == "question_answering" else ("caption",)
    if missing := [name for name in needed if not given[name]]:
        raise ValueError(
            f"An example of {kind} has no {missing[0]}; give it one or choose another "
            "kind of instruction."
        )
    words = caption.split()
    if kind == "text_continuation" and len(words) < 2:
        kind = "captioning"
    choices = TEMPLATES[kind]
    template, number = choices[number % len(choices)], number // len(choices)
    cut = 1 + number % max(len(words) - 1, 1)
    given["beginning"], given["rest"] = " ".join(words[:cut]), " ".join(words[cut:])
    given["medium"] = "video" if is_video else "image"
    return Instruction(*(text.format(**given) for text in template))
