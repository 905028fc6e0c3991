"""Captions and answers for files: a model, its tokenizer, and how both are used.

    predictor = Predictor.from_checkpoint("checkpoints/mine")
    predictor.caption("clip.mp4").text
    predictor.answer("clip.mp4", "what is the man doing").text

Media are processed in batches of a few fixed sizes, so that little is compiled; what a
medium gets does not depend on its batch.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any, Self, overload

import jax
import numpy as np
from jaxtyping import Shaped

from mplug2_jax.batching import (
    Encoded,
    Shapes,
    as_medium,
    ask_in_groups,
    padded,
    stacked,
    streams,
)
from mplug2_jax.checkpoint.load import Metadata, load_checkpoint, read_metadata
from mplug2_jax.checkpoint.parts import (
    find_checkpoint,
    find_decoding,
    find_inputs,
    find_tokenizer,
)
from mplug2_jax.data.files import StoredFile
from mplug2_jax.data.inputs import InputConfig
from mplug2_jax.data.prefetch import batched, read_ahead, unless_error
from mplug2_jax.data.text import strip_prompt
from mplug2_jax.data.tokenizers import Tokenizer
from mplug2_jax.data.video import Media, read_media
from mplug2_jax.decoding import DecodingConfig
from mplug2_jax.decoding.settings import Decoding
from mplug2_jax.models.mplug2 import MPlug2
from mplug2_jax.prediction import (
    Candidates,
    Prediction,
    generated,
    ranked,
    texts_per_row,
)
from mplug2_jax.sharding.replicas import replicated
from mplug2_jax.tasks import generation
from mplug2_jax.tasks.base import COMPOSITION
from mplug2_jax.tasks.generation import TaskName
from mplug2_jax.types import Tokens

Item = str | os.PathLike | Media | Shaped[np.ndarray, "..."]
Answers = Sequence[str] | Candidates | None

STREAMS = 4096  # random streams of one medium's questions


@dataclasses.dataclass(frozen=True, eq=False)
class Predictor:
    """A model in use.

    Attributes:
      model: its modules decide what can be asked.
      params: of those modules; compiled functions take them as an argument.
      tokenizer: with exactly the model's vocabulary.
      inputs: frames, lengths and prompt the model was trained with.
      decoding: how texts are generated.
      batch_size: media, or questions, in one device call at most.
      trained_for: the training's task, a key of `tasks.TASKS`; empty: nobody knows.
      rerank: of retrieval: each query's best so many are ordered by matching.
      temperatures: range in which contrast uses the learned one, as trained.
    """

    model: MPlug2
    params: Any
    tokenizer: Tokenizer
    inputs: InputConfig = InputConfig()
    decoding: Decoding = Decoding()
    batch_size: int = 8
    trained_for: str = ""
    rerank: int = Metadata.rerank
    temperatures: tuple[float, float] = Metadata.temperatures

    def __post_init__(self):
        """Rejects another vocabulary and lengths beyond the model's positions."""
        text, inputs = self.model.config.text, self.inputs
        if self.tokenizer.vocab_size != text.vocab_size:
            raise ValueError(
                f"The tokenizer has {self.tokenizer.vocab_size} tokens, the model "
                f"{text.vocab_size}: use the vocabulary it was trained with (--vocab)."
            )
        lengths = inputs.caption_length, inputs.question_length, inputs.answer_length
        if max(lengths) > text.max_positions:
            raise ValueError(
                f"Texts of up to {max(lengths)} tokens do not fit the model's "
                f"{text.max_positions} positions; shorten the lengths of the inputs."
            )
        if self.batch_size < 1:
            raise ValueError(f"The batch size is {self.batch_size}; it must be >= 1.")

    @classmethod
    def from_checkpoint(
        cls,
        directory: str | os.PathLike,
        *,
        task: TaskName | None = None,
        vocab: str | os.PathLike | None = None,
        decoding: Decoding | Mapping[str, Any] | None = None,
        num_frames: int | None = None,
        batch_size: int = 8,
        devices: Sequence[Any] | None = None,
    ) -> Self:
        """Loads a checkpoint folder, or the best one of a training's work folder.

        Args:
          task: loads only the modules of this task; None loads all there are.
          vocab: BERT's vocab.txt, a SentencePiece .model, or a tokenizer's folder; by
            default the checkpoint's own, for BERT's vocabulary else the hub's.
          decoding: of texts; by default as in the run's validation, and a mapping names
            the fields that differ from that. A rule of None is the checkpoint's.
          num_frames: per video; by default as trained.
          devices: of this process, which divide the rows of every batch: as many of
            them as divide `batch_size`. By default the first alone.

        Raises:
          ValueError: no checkpoint, modules missing, or another vocabulary.
          OSError: there is no vocabulary.
        """
        folder = find_checkpoint(directory)
        stored = read_metadata(folder)
        if isinstance(decoding, Decoding):
            decoding = dataclasses.asdict(decoding)
        decoding = find_decoding(folder, stored, decoding or {})
        inputs = find_inputs(folder, stored, num_frames)
        modules = stored.modules
        if task:
            row = "qa" if task == "caption" and inputs.instruction else task
            modules = generation.needed(row, stored.modules)
        model = MPlug2(stored.config, modules)
        tokenizer = find_tokenizer(folder, stored, vocab)
        # Whatever does not fit is said before gigabytes are read.
        made_of = model, None, tokenizer, inputs, decoding, batch_size
        predictor = cls(*made_of, stored.task, stored.rerank, stored.temperatures)
        if task:
            predictor.require(task)
        params, _ = load_checkpoint(folder, modules)
        where = replicated(devices, batch_size)
        return predictor.replace_params(jax.device_put(params, where))

    def replace_params(self, params: Any) -> Self:
        """The same model with other parameters; nothing is compiled again."""
        return dataclasses.replace(self, params=params)

    def require(self, task: TaskName) -> None:
        """Raises ValueError if the model lacks what the task needs."""
        generation.needed(self._row(task), self.model.modules)
        if task == "grounding" and not self.inputs.num_bins:
            raise ValueError(
                "The model knows no boxes (inputs.num_bins is 0); use a checkpoint "
                "that was trained for grounding."
            )
        if "classifier" in COMPOSITION[generation.ROWS[self._row(task)]].modules:
            self._check_classes()

    def _check_classes(self) -> None:
        count, names = self.model.config.classifier.num_classes, self.inputs.classes
        if count != max(1, len(names)):
            raise ValueError(
                f"The model scores {count} classes, inputs.classes names "
                f"{len(names)}; name each."
            )

    def can(self, task: TaskName) -> bool:
        """Whether the model has learned the task; who asks may ask for others, too.

        Where nobody knows what it was trained for: whether it has what the task needs.
        """
        if task not in generation.TAUGHT.get(self.trained_for, (task,)):
            return False
        able = not generation.missing(self._row(task), self.model.modules)
        return able and (task != "grounding" or self.inputs.num_bins > 0)

    @property
    def origin(self) -> str:
        """In words, what the model was trained for, or what it has."""
        if self.trained_for:
            return f"a model trained for {self.trained_for}"
        return f"a model of {', '.join(self.model.modules)}"

    def _row(self, task: TaskName) -> TaskName:
        """Captions by instruction are answers."""
        return "qa" if task == "caption" and self.inputs.instruction else task

    @property
    def caption_decoding(self) -> DecodingConfig:
        minimum = self.decoding.min_caption_length
        if minimum is None:
            prompt = "" if self.inputs.instruction else self.inputs.prompt
            minimum = len(self.tokenizer.encode(prompt))
        return self._search(self.inputs.caption_length, minimum)

    @property
    def answer_decoding(self) -> DecodingConfig:
        return self._search(self.inputs.answer_length, self.decoding.min_answer_length)

    def _search(self, longest: int, shortest: int) -> DecodingConfig:
        return self.decoding.config(
            longest,
            shortest,
            start_id=self.tokenizer.start_id,
            end_id=self.tokenizer.end_id,
            pad_id=self.tokenizer.pad_id,
        )

    @overload
    def caption(self, media: Item, top_k: int = 1) -> Prediction: ...
    @overload
    def caption(self, media: Sequence[Item], top_k: int = 1) -> list[Prediction]: ...
    def caption(self, media, top_k=1):
        """Describes one medium or a list of media, videos and images mixed.

        Args:
          media: a path, what `read` returned, or uint8 frames: `T H W 3` is a video,
            `H W 3` an image.
          top_k: hypotheses per medium.

        Raises:
          ValueError: the model has no captioning, `top_k` exceeds the beam, or a
            medium cannot be used.
          OSError: a file cannot be read.
        """
        self.require("caption")
        if not isinstance(media, list | tuple):
            return self.caption([media], top_k)[0]
        found: list[Prediction] = []
        shapes = self.shapes([0] * len(media))
        with read_ahead(self.medium, media, ahead=2 * shapes.media) as read:
            for window in batched(map(unless_error, read), shapes.media):
                found += self.caption_media(window, shapes, top_k, len(found))
        return found

    @overload
    def answer(
        self, media: Item, question: str, candidates: Answers = None, top_k: int = 1
    ) -> Prediction: ...
    @overload
    def answer(
        self,
        media: Item,
        question: Sequence[str],
        candidates: Answers = None,
        top_k: int = 1,
    ) -> list[Prediction]: ...
    def answer(self, media, question, candidates=None, top_k=1):
        """Answers one question or several about one medium, which is encoded once.

        Args:
          media: as for `caption`.
          candidates: possible answers to rank; without, the answer is generated.
          top_k: hypotheses per question.

        Raises: as `caption`; ValueError for an empty question or list of candidates.
        """
        self.require("qa")
        questions = [question] if isinstance(question, str) else list(question)
        candidates = self._checked([questions], candidates, top_k)
        shapes = self.shapes([len(questions)])
        (encoded,) = self.encode([self.medium(media)], shapes)
        (found,) = self.answer_encoded(encoded, [questions], shapes, candidates, top_k)
        return found[0] if isinstance(question, str) else found

    def read(
        self,
        path: str | os.PathLike | StoredFile,
        start: float | None = None,
        end: float | None = None,
    ) -> Media:
        """Reads a file, or its segment in seconds, as the model wants it."""
        size = self.model.config.vision.image_size
        return read_media(path, self.inputs.num_frames, size, None, start, end)

    def prepare(self, candidates: Sequence[str]) -> Candidates:
        """Tokens of possible answers; do it once for many questions.

        Raises:
          ValueError: there are none, or one is longer than the model's positions.
        """
        longest = self.model.config.text.max_positions
        return Candidates.of(candidates, self.tokenizer, longest)

    def shapes(self, counts: Sequence[int]) -> Shapes:
        """Shapes for a job, from its number of questions about each medium."""
        return Shapes.fitting(counts, self.batch_size)

    def encode(
        self, media: Sequence[Media], shapes: Shapes, first_number: int = 0
    ) -> list[Encoded]:
        """Encodes media, those of one kind and size together.

        Args:
          first_number: of the first medium's random stream.
        """
        encoded = []
        for batch, frames, image, views in stacked(media, shapes.media):
            length = 1 if image else frames.shape[1] // views
            together = frames.shape[1] // (views * length)
            if views * together > 1:  # B V*M*T H W 3 -> B*V*M T H W 3
                frames = frames.reshape(-1, length, *frames.shape[2:])
            vision = generation.encode(
                self.model, self.params, frames, is_video=not image
            )
            numbers = tuple(first_number + index for index in batch)
            encoded.append(Encoded(vision, tuple(batch), numbers, together, views))
        return encoded

    def caption_media(
        self,
        media: Sequence[Media],
        shapes: Shapes,
        top_k: int = 1,
        first_number: int = 0,
    ) -> list[Prediction]:
        """Captions of media that `read` returned; see `encode`."""
        texts_per_row(self.caption_decoding, top_k)  # or an error, before the work
        placed = {}
        for encoded in self.encode(media, shapes, first_number):
            captions = self.caption_encoded(encoded, top_k)
            placed |= zip(encoded.indices, captions, strict=True)
        return [placed[index] for index in range(len(media))]

    def caption_encoded(self, encoded: Encoded, top_k: int = 1) -> list[Prediction]:
        """Captions of the rows of `encoded` that are not padding."""
        encoded.require_one()
        decoding = self.caption_decoding
        count = texts_per_row(decoding, top_k)
        if self.inputs.instruction:
            asked = [(row, 0) for row in range(len(encoded.vision))]
            tokens = self._questions([self.inputs.instruction] * len(asked))
            rows = np.arange(len(asked))
            found = self._generate(encoded, rows, asked, tokens, decoding, top_k)
            return found[: len(encoded.indices)]
        out = generation.caption(
            self.model,
            decoding,
            self.params,
            encoded.vision,
            jax.random.key(self.decoding.seed),
            streams(padded(encoded.numbers, len(encoded.vision)), count),
            count=count,
        )
        found = generated(out, self.tokenizer, top_k, self._bare)
        return found[: len(encoded.indices)]

    def answer_encoded(
        self,
        encoded: Encoded,
        questions: Sequence[Sequence[str]],
        shapes: Shapes,
        candidates: Answers = None,
        top_k: int = 1,
    ) -> list[list[Prediction]]:
        """Answers to any number of questions about each row of `encoded`."""
        encoded.require_one()
        candidates = self._checked(questions, candidates, top_k)
        return ask_in_groups(
            list(map(len, questions)),
            shapes,
            lambda groups: self._answer(encoded, questions, groups, candidates, top_k),
        )

    def _checked(self, questions, candidates: Answers, top_k) -> Candidates | None:
        """The candidates' tokens; ValueError for what cannot be asked."""
        if any(not question.strip() for asked in questions for question in asked):
            raise ValueError("A question is empty; ask something.")
        if candidates is None:
            texts_per_row(self.answer_decoding, top_k)
        elif not isinstance(candidates, Candidates):
            candidates = self.prepare(candidates)
        return candidates

    def _answer(self, encoded, questions, groups, candidates, top_k):
        """One device call: groups of (row of `encoded`, question) of one size."""
        rows = np.array([group[0][0] for group in groups])
        places = [place for group in groups for place in group]
        tokens = self._questions([questions[row][index] for row, index in places])
        if candidates is None:
            decoding = self.answer_decoding
            return self._generate(encoded, rows, places, tokens, decoding, top_k)
        k = min(self.decoding.ranked, len(candidates.tokens.values))
        shared = self.params, encoded.vision, rows, tokens
        out = generation.rank(self.model, k, *shared, candidates.tokens)
        return ranked(out, candidates.texts, top_k)

    def _questions(self, questions: list[str]) -> Tokens:
        return self.inputs.questions(self.tokenizer, questions, max_words=50)

    def _generate(self, encoded, rows, places, tokens, decoding, top_k):
        """Texts that answer the questions of `tokens`, at (row, index) of `places`."""
        count = texts_per_row(decoding, top_k)
        numbers = padded(encoded.numbers, len(encoded.vision))
        numbers = [numbers[row] * STREAMS + index for row, index in places]
        out = generation.answer(
            self.model,
            decoding,
            *(self.params, encoded.vision, rows, tokens),
            jax.random.key(self.decoding.seed),
            streams(numbers, count),
            count=count,
        )
        return generated(out, self.tokenizer, top_k)

    def _bare(self, caption: str) -> str:
        return strip_prompt(caption, self.inputs.prompt)

    def medium(self, item: Item) -> Media:
        """A file, or frames, as a medium of the model's size."""
        if isinstance(item, str | os.PathLike):
            return self.read(item)
        size = self.model.config.vision.image_size
        return as_medium(item, size)
