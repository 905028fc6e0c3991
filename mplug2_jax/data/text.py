"""Cleaning of captions, questions and answers, and the prompt of captioning.

The released checkpoints were trained on texts cleaned like this; models trained from
scratch use the same rules, so that a corpus means the same to both.
"""

import re

END = "[SEP]"  # in a text: the end token
PROMPT = "a video of"
MAX_CAPTION_WORDS = 80
MAX_QUESTION_WORDS = 30  # training; 50 at test

_REMOVED = str.maketrans("-/", "  ", ",.'!?\"()*#:;~")


def _plain(text: str) -> str:
    return text.lower().translate(_REMOVED).replace("<person>", "person")


def _first_words(text: str, count: int) -> str:
    # Split at each blank: two blanks in a row hold an empty word, which counts.
    return " ".join(text.split(" ")[:count])


def clean_caption(text: str, max_words: int = MAX_CAPTION_WORDS) -> str:
    """Lower case, no punctuation, "-" and "/" as blanks, single blanks, first words."""
    text = re.sub(r"\s{2,}", " ", _plain(text)).strip("\n").strip(" ")
    return _first_words(text, max_words)


def clean_question(text: str, max_words: int = MAX_QUESTION_WORDS) -> str:
    """Cleans like a caption, but keeps runs of blanks inside the question."""
    return _first_words(_plain(text).rstrip(), max_words)


def clean_answer(text: str) -> str:
    """Lower case, single blanks; punctuation is part of an answer ("t-shirt")."""
    return " ".join(text.lower().split())


def caption_text(caption: str, prompt: str = PROMPT, joined: bool = True) -> str:
    """Returns the text a captioning model learns: prompt, cleaned caption, end token.

    Args:
      caption: as found in the data set.
      prompt: what the caption begins with; may be empty.
      joined: no blank between prompt and caption ("a video ofa man"), as the released
        checkpoints were trained; False puts the blank, for models trained from scratch.
    """
    blank = "" if joined or not prompt else " "
    return f"{prompt}{blank}{clean_caption(caption)}{END}"


def answer_text(answer: str) -> str:
    """Returns the text a question-answering model learns: answer and end token."""
    return clean_answer(answer) + END


def strip_prompt(decoded: str, prompt: str = PROMPT) -> str:
    """Returns what a decoded caption says after the (last) prompt in it."""
    return (decoded.rsplit(prompt, 1)[-1] if prompt else decoded).strip()
