"""What using a checkpoint takes beside its parameters: place, tokenizer, settings."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mplug2_jax.checkpoint.load import CONFIG, TOKENIZER, Metadata, is_state
from mplug2_jax.data.files import local_path
from mplug2_jax.data.inputs import InputConfig
from mplug2_jax.data.tokenizers import Tokenizer, load_tokenizer, open_tokenizer
from mplug2_jax.decoding.settings import Decoding

BERT_VOCAB_SIZE = 30522
MOUNT = "mount it, and name the folder where it is mounted."


def find_checkpoint(directory: str | os.PathLike) -> Path:
    """The checkpoint folder itself, or the best, final or last one of a work folder.

    A training state, WORKDIR/checkpoints/STEP, is one too.

    Raises:
      ValueError: it is not on this machine.
    """
    folder = local_path(directory, MOUNT)
    states = [p for p in (folder / "checkpoints").glob("[0-9]*") if p.name.isdigit()]
    states.sort(key=lambda path: int(path.name))
    for inner in (folder, folder / "best", folder / "final", *states[-1:]):
        if (inner / CONFIG).is_file() or is_state(inner):
            return inner
    return folder  # reading it says what is wrong


def stored_tokenizer(folder: Path) -> Tokenizer | None:
    """The tokenizer kept with a checkpoint, or with the run of a training state."""
    place = folder.absolute().parents[1] if is_state(folder) else folder
    return load_tokenizer(place / TOKENIZER) if (place / TOKENIZER).is_dir() else None


def find_tokenizer(
    folder: Path, metadata: Metadata, vocab: str | os.PathLike | None = None
) -> Tokenizer:
    """The tokenizer named by `vocab`, else the checkpoint's, else BERT's from the hub.

    Args:
      vocab: BERT's vocab.txt, a SentencePiece .model, or a folder that a tokenizer
        was saved to.

    Raises:
      OSError: there is none, or the hub cannot be reached.
      ValueError: its files are damaged.
    """
    if vocab is not None:
        return open_tokenizer(vocab)
    if stored := stored_tokenizer(folder):
        return stored
    size = metadata.config.text.vocab_size
    if size != BERT_VOCAB_SIZE:
        raise FileNotFoundError(
            f"{folder} has no tokenizer and its {size} tokens are not BERT's: pass the "
            "vocabulary it was trained with (--vocab PATH)."
        )
    try:
        return open_tokenizer("")
    except OSError as error:
        raise OSError(f"{folder} has no tokenizer: {error}") from error


def find_inputs(
    folder: Path,
    metadata: Metadata,
    num_frames: int | None = None,
    caption_length: int | None = None,
) -> InputConfig:
    """How the model wants its media and texts.

    Args:
      num_frames, caption_length: in place of those it was trained with.

    Raises:
      ValueError: config.json names unknown inputs, or a number is too small.
    """
    _check_names(folder, "input", metadata.inputs, InputConfig)
    if num_frames is not None and num_frames < 1:
        raise ValueError(f"The number of frames is {num_frames}; it must be >= 1.")
    if caption_length is not None and caption_length < 2:
        raise ValueError(
            f"The length of texts is {caption_length}; it must be >= 2 tokens."
        )
    given = {"num_frames": num_frames, "caption_length": caption_length}
    changed = {name: value for name, value in given.items() if value is not None}
    return InputConfig(**{**metadata.inputs, **changed})


def find_decoding(
    folder: Path, metadata: Metadata, changed: Mapping[str, Any]
) -> Decoding:
    """How texts are generated: as in the run's validation, by the checkpoint's rule.

    Args:
      changed: fields of `Decoding` in place of those of the validation.

    Raises:
      ValueError: config.json names unknown fields, or a value is impossible.
    """
    stored = metadata.decoding
    _check_names(folder, "decoding", stored, Decoding)
    its = Decoding(**{**stored, **changed})
    rule = its.rule or stored.get("rule") or metadata.decoding_rule
    return dataclasses.replace(its, rule=rule)


def _check_names(folder: Path, what: str, stored: Mapping[str, Any], of: type) -> None:
    fields = {field.name for field in dataclasses.fields(of)}
    if unknown := sorted(set(stored) - fields):
        raise ValueError(
            f"{folder / CONFIG} has the unknown {what} {unknown[0]!r}; expected some "
            f"of {sorted(fields)}."
        )
