"""Tokenizers: WordPiece (BERT's, for the released checkpoints) and SentencePiece.

Both give the start token and the pieces, nothing behind: the end token stands only
where the text says "[SEP]", which captions and answers do and questions do not.
"""

import json
import os
import re
import uuid
from collections.abc import Iterable, Sequence
from io import BytesIO
from typing import Protocol, Self

import numpy as np
import sentencepiece
import tokenizers
from etils import epath
from tokenizers import models, normalizers, pre_tokenizers

from mplug2_jax.data.text import END
from mplug2_jax.types import Tokens

PAD, UNK, START, MASK = "[PAD]", "[UNK]", "[CLS]", "[MASK]"
_SPECIAL = (PAD, UNK, START, END, MASK)
_ASCII = "abcdefghijklmnopqrstuvwxyz0123456789"
_UNUSED = re.compile(r"\[unused(\d+)\]")
_KIND_FILE = "tokenizer.json"

_NORMALIZER = normalizers.BertNormalizer(
    lowercase=True, strip_accents=True, handle_chinese_chars=True, clean_text=True
)
_PRE_TOKENIZER = pre_tokenizers.BertPreTokenizer()
# How BERT's decoding closes up punctuation and clitics.
_TIGHTENED = (
    *((f" {mark}", mark) for mark in ".?!,"),
    (" ' ", "'"),
    *((f" {clitic}", clitic) for clitic in ("n't", "'m", "'s", "'ve", "'re")),
)
_SENTENCEPIECE_OPTIONS = {
    "pad_id": 0,
    "unk_id": 1,
    "bos_id": 2,
    "eos_id": 3,
    "pad_piece": PAD,
    "unk_piece": UNK,
    "bos_piece": START,
    "eos_piece": END,
    "user_defined_symbols": [MASK],
    "unk_surface": f" {UNK} ",
    "normalization_rule_name": "nmt_nfkc_cf",
    "character_coverage": 1.0,
    "hard_vocab_limit": False,
    "minloglevel": 2,
}


class Tokenizer(Protocol):
    """What models, data and evaluation ask of a tokenizer; it pickles.

    Attributes:
      vocab_size: number of ids; the model may hold more rows (its padded vocabulary).
      pad_id: always 0.
      spare_ids: entries that no text has; BERT's [unusedN] in order.
    """

    vocab_size: int
    spare_ids: tuple[int, ...] = ()
    pad_id: int
    unk_id: int
    start_id: int
    end_id: int
    mask_id: int

    def encode(self, text: str, max_length: int | None = None) -> list[int]:
        """Returns the start id and the text's ids, cut at `max_length` ids."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text without padding, start and end tokens; does not stop at one.

        Raises:
          ValueError: an id is outside the vocabulary.
        """
        ...

    def save(self, directory: str | os.PathLike) -> None:
        """Writes the files that `load_tokenizer` reads; makes the directory."""
        ...

    def encode_batch(
        self, texts: Sequence[str], max_length: int, pad_to: int | None = None
    ) -> Tokens:
        """Encodes texts to int32 arrays (texts, L), padded on the right.

        Args:
          texts: one row each.
          max_length: rows are cut at this many ids, the start id included.
          pad_to: L; None: the longest row. At least `max_length` is safe.

        Raises:
          ValueError: a row is longer than `pad_to`.
        """
        rows = [self.encode(text, max_length) for text in texts]
        longest = max(map(len, rows), default=0)
        width = longest if pad_to is None else pad_to
        if longest > width:
            raise ValueError(
                f"a text has {longest} tokens, more than pad_to={width}: lower "
                f"max_length, now {max_length}"
            )
        return padded_rows(rows, width, self.pad_id)


class WordPieceTokenizer(Tokenizer):
    """BERT's uncased WordPiece over a vocabulary, without BERT's trailing [SEP].

    Lower case, accents stripped, Chinese characters apart; words of more than 100
    characters are unknown, as in BERT.
    """

    def __init__(self, pieces: Sequence[str], source: str = "the vocabulary"):
        """Takes the pieces in the order of their ids; prefer the constructors below."""
        _check_pieces(pieces, source)
        self._pieces = list(pieces)
        ids = {piece: index for index, piece in enumerate(pieces)}
        self.vocab_size = len(pieces)
        spare = [(int(m[1]), ids[m[0]]) for m in map(_UNUSED.fullmatch, pieces) if m]
        self.spare_ids = tuple(id_ for _, id_ in sorted(spare))
        self.pad_id, self.unk_id, self.start_id, self.end_id, self.mask_id = (
            ids[piece] for piece in _SPECIAL
        )
        self._tokenizer = tokenizers.Tokenizer(
            models.WordPiece(ids, unk_token=UNK, max_input_chars_per_word=100)
        )
        self._tokenizer.normalizer = _NORMALIZER
        self._tokenizer.pre_tokenizer = _PRE_TOKENIZER
        self._tokenizer.add_special_tokens(list(_SPECIAL))

    @classmethod
    def from_vocab(cls, vocab: str | os.PathLike | Sequence[str]) -> Self:
        """Builds the tokenizer from BERT's vocab.txt, or from its lines.

        Raises:
          OSError: the file cannot be read.
          ValueError: it is not a vocabulary: not UTF-8 text, a special token missing,
            [PAD] not first, a line empty or there twice.
        """
        if not isinstance(vocab, str | os.PathLike):
            return cls(vocab)
        path = epath.Path(vocab)
        if not path.is_file():
            raise FileNotFoundError(
                f"no vocabulary file at {path}: pass BERT's vocab.txt"
            )
        try:
            text = path.read_bytes().decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path} is not a vocabulary: expected UTF-8 text, one token a line"
            ) from error
        # Not splitlines: U+2028 and the like are tokens.
        lines = text.replace("\r\n", "\n").removesuffix("\n").split("\n")
        return cls(lines, str(path))

    @classmethod
    def from_hub(cls, name: str = "bert-base-uncased") -> Self:
        """Takes `vocab.txt` of a Hugging Face model from the local cache or the hub.

        Raises:
          OSError: it cannot be fetched.
        """
        import huggingface_hub as hub  # slow, and needed here only

        try:
            path = hub.try_to_load_from_cache(name, "vocab.txt")
            if not isinstance(path, str):
                # Fails at once without a network; the download tries for half a minute.
                hub.get_hf_file_metadata(hub.hf_hub_url(name, "vocab.txt"))
                path = hub.hf_hub_download(name, "vocab.txt")
        except Exception as error:  # the hub's errors share no base class
            reason = str(error).strip().split("\n")[0]
            raise OSError(
                f"cannot fetch the vocabulary of {name} from the Hugging Face hub "
                f"({reason}): download its vocab.txt and pass --vocab PATH"
            ) from error
        return cls.from_vocab(path)

    @classmethod
    def from_words(cls, texts: Iterable[str]) -> Self:
        """Builds a vocabulary of the texts' whole words and of single characters.

        For small closed worlds: every word seen is one token, another one is spelt in
        ASCII letters, digits and the characters seen.
        """
        words: set[str] = set()
        for text in texts:
            plain = _NORMALIZER.normalize_str(text.replace(END, " "))
            words.update(word for word, _ in _PRE_TOKENIZER.pre_tokenize_str(plain))
        letters = sorted(set(_ASCII).union(*words))
        pieces = [*_SPECIAL, *letters, *(f"##{letter}" for letter in letters)]
        return cls([*pieces, *sorted(words - set(pieces))])

    def encode(self, text: str, max_length: int | None = None) -> list[int]:
        """See `Tokenizer.encode`; "[SEP]" and its like in a text are special tokens."""
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        return [self.start_id, *encoding.ids][:max_length]

    def decode(self, ids: Iterable[int]) -> str:
        """See `Tokenizer.decode`; [UNK] and [MASK] stay, as in upstream."""
        pieces = [self._pieces[i] for i in _checked(ids, self.vocab_size)]
        text = " ".join(pieces).replace(" ##", "")
        for spaced, tight in _TIGHTENED:
            text = text.replace(spaced, tight)
        for special in (PAD, START, END):
            text = text.replace(special, "")
        return text.strip()

    def save(self, directory: str | os.PathLike) -> None:
        """See `Tokenizer.save`; writes vocab.txt and the file naming the kind."""
        text = "".join(f"{piece}\n" for piece in self._pieces)
        _save(directory, "wordpiece", "vocab.txt", text.encode())


class SentencePieceTokenizer(Tokenizer):
    """SentencePiece, for models trained from scratch, in any language.

    Ids: 0 padding, 1 unknown, 2 start, 3 end, 4 mask.
    """

    def __init__(self, model: bytes, source: str = "the SentencePiece model"):
        """Takes a serialised model whose special pieces have the ids above."""
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model or b"empty")
        except RuntimeError as error:
            raise ValueError(f"{source} is not a SentencePiece model") from error
        self._model = model
        self.vocab_size = self._processor.vocab_size()
        size = min(self.vocab_size, len(_SPECIAL))
        found = tuple(self._processor.id_to_piece(i) for i in range(size))
        if found != _SPECIAL:
            raise ValueError(
                f"{source} begins with the pieces {found}, expected {_SPECIAL}: train "
                "one with SentencePieceTokenizer.train"
            )
        self.pad_id, self.unk_id, self.start_id, self.end_id, self.mask_id = range(size)

    @classmethod
    def from_file(cls, path: str | os.PathLike) -> Self:
        """Reads a model file.

        Raises:
          OSError: the file cannot be read.
          ValueError: it is no SentencePiece model, or its special pieces differ.
        """
        file = epath.Path(path)
        if not file.is_file():
            raise FileNotFoundError(f"no SentencePiece model at {file}")
        return cls(file.read_bytes(), str(file))

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        vocab_size: int,
        model_path: str | os.PathLike | None = None,
    ) -> Self:
        """Trains a unigram model on texts, case-folded and NFKC-normalised.

        Args:
          texts: sentences; an open text file is an iterable of them.
          vocab_size: upper bound; few texts give fewer pieces.
          model_path: where to keep the model file, besides `save`.

        Raises:
          ValueError: there is no text, or `vocab_size` is below the characters in it.
        """
        model = BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=(text.strip() for text in texts),
                model_writer=model,
                vocab_size=vocab_size,
                **_SENTENCEPIECE_OPTIONS,
            )
        except RuntimeError as error:
            reason = str(error).split("] ")[-1].strip() or "there is no text"
            raise ValueError(f"cannot train a SentencePiece model: {reason}") from error
        if model_path is not None:
            _write(epath.Path(model_path), model.getvalue())
        return cls(model.getvalue())

    def encode(self, text: str, max_length: int | None = None) -> list[int]:
        """See `Tokenizer.encode`; "[SEP]" and "[MASK]" in a text are special tokens."""
        ids = [self.start_id]
        for index, part in enumerate(text.split(END)):
            ids += [self.end_id] * (index > 0) + self._processor.encode(part)
        return ids[:max_length]

    def decode(self, ids: Iterable[int]) -> str:
        """See `Tokenizer.decode`; [UNK] and [MASK] stay."""
        dropped = (self.pad_id, self.start_id, self.end_id)
        kept = [i for i in _checked(ids, self.vocab_size) if i not in dropped]
        return " ".join(self._processor.decode(kept).split())

    def save(self, directory: str | os.PathLike) -> None:
        """See `Tokenizer.save`; writes the model and the file naming the kind."""
        _save(directory, "sentencepiece", "sentencepiece.model", self._model)


def padded_rows(rows: Sequence[Sequence[int]], width: int, pad_id: int) -> Tokens:
    """Rows of ids as int32 arrays, padded on the right to `width`."""
    values = np.full((len(rows), width), pad_id, np.int32)
    mask = np.zeros((len(rows), width), np.int32)
    for index, row in enumerate(rows):
        values[index, : len(row)] = row
        mask[index, : len(row)] = 1
    return Tokens(values=values, mask=mask)  # type: ignore[arg-type]


def load_tokenizer(directory: str | os.PathLike) -> Tokenizer:
    """Reads what `save` wrote.

    Raises:
      OSError: no tokenizer there.
      ValueError: its files are damaged.
    """
    folder = epath.Path(directory)
    file = folder / _KIND_FILE
    if not file.is_file():
        raise FileNotFoundError(
            f"no tokenizer in {folder}: expected {_KIND_FILE}; pass --vocab PATH"
        )
    try:
        kind = json.loads(file.read_text())["kind"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f'{file} does not name the tokenizer\'s "kind"') from error
    if kind == "wordpiece":
        return WordPieceTokenizer.from_vocab(folder / "vocab.txt")
    if kind == "sentencepiece":
        return SentencePieceTokenizer.from_file(folder / "sentencepiece.model")
    raise ValueError(f"{file} names kind {kind!r}, expected wordpiece or sentencepiece")


def open_tokenizer(source: str | os.PathLike) -> Tokenizer:
    """Opens whatever a user may name as a vocabulary.

    Args:
      source: folder written by `Tokenizer.save`, SentencePiece `.model` file, WordPiece
        `vocab.txt`; empty for BERT's uncased vocabulary from the Hugging Face hub.

    Raises:
      ValueError: not such a thing, or the hub cannot be reached.
    """
    if not source:
        return WordPieceTokenizer.from_hub()
    path = epath.Path(source)
    if path.is_dir():
        return load_tokenizer(path)
    if path.suffix == ".model":
        return SentencePieceTokenizer.from_file(path)
    return WordPieceTokenizer.from_vocab(path)


def _check_pieces(pieces: Sequence[str], source: str) -> None:
    missing = [piece for piece in _SPECIAL if piece not in pieces]
    if missing:
        raise ValueError(
            f"{source} lacks {', '.join(missing)}: expected BERT's vocab.txt, one "
            f"token a line ({len(pieces)} lines found)"
        )
    if pieces[0] != PAD:
        raise ValueError(f"{source} begins with {pieces[0]!r}, expected {PAD} (id 0)")
    seen: set[str] = set()
    for number, piece in enumerate(pieces, 1):
        if not piece or piece in seen:
            what = f"repeats {piece!r}" if piece else "is empty"
            raise ValueError(
                f"{source}: line {number} {what}; every token needs one id"
            )
        seen.add(piece)


def _checked(ids: Iterable[int], vocab_size: int) -> list[int]:
    ids = [int(i) for i in ids]
    outside = [i for i in ids if not 0 <= i < vocab_size]
    if outside:
        raise ValueError(
            f"id {outside[0]} is outside the vocabulary of {vocab_size}: is this the "
            "tokenizer the model was trained with?"
        )
    return ids


def _save(directory: str | os.PathLike, kind: str, name: str, content: bytes) -> None:
    folder = epath.Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / name, content)
    _write(folder / _KIND_FILE, json.dumps({"kind": kind}).encode())


def _write(path: epath.Path, content: bytes) -> None:
    """Writes a whole file or none."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
