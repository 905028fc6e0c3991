"""How media and texts become the arrays a model reads; stored in every checkpoint."""

import dataclasses

from mplug2_jax.data.text import (
    MAX_QUESTION_WORDS,
    PROMPT,
    answer_text,
    caption_text,
    clean_caption,
    clean_question,
)
from mplug2_jax.data.tokenizers import Tokenizer
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
    """

    num_frames: int = 16
    caption_length: int = 20
    question_length: int = 25
    answer_length: int = 10
    prompt: str = PROMPT
    prompt_joined: bool = True
    text_length: int = 128

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

    def texts(self, tokenizer: Tokenizer, texts: list[str]) -> Tokens:
        """Rows of plain text, `text_length` wide."""
        return tokenizer.encode_batch(texts, self.text_length, self.text_length)
