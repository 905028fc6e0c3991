"""How media and texts become the arrays a model reads; stored in every checkpoint."""

import dataclasses

from mplug2_jax.boxes import Coordinates
from mplug2_jax.data.text import (
    MAX_QUESTION_WORDS,
    PROMPT,
    answer_text,
    caption_text,
    clean_caption,
    clean_question,
)
from mplug2_jax.data.tokenizers import Tokenizer, padded_rows
from mplug2_jax.types import Tokens


@dataclasses.dataclass(frozen=True)
class InputConfig:
    """Lengths and texts as upstream's fine-tuning configurations have them.

    Attributes:
      num_frames: frames per video.
      caption_length, question_length, answer_length: tokens, [CLS] and end included.
      text_length: tokens of plain text, [CLS] included; of pretraining.
      prompt: what every caption begins with; may be empty.
      prompt_joined: no blank between prompt and caption ("a video ofa man"), as the
        released checkpoints were trained.
      instruction: if not empty, captions are asked for by it, as questions are
        (paper figure 1), and have no prompt.
      classes: names of a classifier's classes, in the order of its scores.
      num_bins: steps that an image's width and height are cut into where boxes are
        written as tokens; 0: the model knows no boxes.
    """

    num_frames: int = 16
    caption_length: int = 20
    question_length: int = 25
    answer_length: int = 10
    prompt: str = PROMPT
    prompt_joined: bool = True
    text_length: int = 128
    instruction: str = ""
    classes: tuple[str, ...] = ()
    num_bins: int = 0

    def __post_init__(self):
        object.__setattr__(self, "classes", tuple(self.classes))  # JSON has lists

    def prompt_length(self, tokenizer: Tokenizer) -> int:
        """Targets before this position are the prompt's: its tokens, less one."""
        return len(tokenizer.encode(self.prompt)) - 1

    def captions(self, tokenizer: Tokenizer, captions: list[str]) -> Tokens:
        """Rows of prompt, caption and end token, `caption_length` wide."""
        texts = [caption_text(c, self.prompt, self.prompt_joined) for c in captions]
        return tokenizer.encode_batch(texts, self.caption_length, self.caption_length)

    def questions(
        self,
        tokenizer: Tokenizer,
        questions: list[str],
        max_words: int = MAX_QUESTION_WORDS,
    ) -> Tokens:
        """Rows of cleaned questions without an end token, `question_length` wide.

        Upstream cuts questions at 30 words in training and at 50 in its tests.
        """
        texts = [clean_question(question, max_words) for question in questions]
        return tokenizer.encode_batch(texts, self.question_length, self.question_length)

    def answers(self, tokenizer: Tokenizer, answers: list[str]) -> Tokens:
        """Rows of answer and end token, `answer_length` wide."""
        texts = [answer_text(answer) for answer in answers]
        return tokenizer.encode_batch(texts, self.answer_length, self.answer_length)

    def plain_captions(self, tokenizer: Tokenizer, captions: list[str]) -> Tokens:
        """Rows of cleaned captions alone, `caption_length` wide; of pretraining."""
        texts = [clean_caption(caption) for caption in captions]
        return tokenizer.encode_batch(texts, self.caption_length, self.caption_length)

    def instructed(self, tokenizer: Tokenizer, captions: list[str]) -> Tokens:
        """Rows of caption and end token, without prompt, `caption_length` wide."""
        texts = [caption_text(caption, prompt="") for caption in captions]
        return tokenizer.encode_batch(texts, self.caption_length, self.caption_length)

    def texts(self, tokenizer: Tokenizer, texts: list[str]) -> Tokens:
        """Rows of plain text, `text_length` wide."""
        return tokenizer.encode_batch(texts, self.text_length, self.text_length)

    def text_pairs(self, tokenizer: Tokenizer, pairs: list[tuple[str, str]]) -> Tokens:
        """Rows of a text, or of two with the end token between them; of classification.

        Where they do not fit `text_length`, the longer of the two is cut.
        """
        rows = []
        for first, second in pairs:
            ids = tokenizer.encode(first)
            more = [tokenizer.end_id, *tokenizer.encode(second)[1:]] if second else []
            while len(ids) + len(more) > self.text_length:
                (ids if len(ids) > len(more) else more).pop()
            rows.append(ids + more)
        return padded_rows(rows, self.text_length, tokenizer.pad_id)

    def coordinates(self, tokenizer: Tokenizer) -> Coordinates:
        """The tokens that stand for places in an image.

        Raises:
          ValueError: the vocabulary has too few entries to spare.
        """
        spare = tokenizer.spare_ids
        if not 1 < self.num_bins <= len(spare):
            raise ValueError(
                f"inputs.num_bins is {self.num_bins}; boxes need from 2 to "
                f"{len(spare)} bins, as many as the vocabulary has unused entries."
            )
        return Coordinates(spare[: self.num_bins])
