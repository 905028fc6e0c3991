"""The model on the inputs of another run, to be held against its outputs.

A reference is an .npz file. Captioning reads `video` (B 3 T H W, normalised floats),
`caption_ids`, `caption_mask` and, if it is there, `prompt_length`; question answering
`qa_video`, `question_ids`, `question_mask`, `answer_ids`, `answer_mask`.

Everything runs as a video, one frame too: the official code knows no other way.
"""

import os
import zipfile
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from mplug2_jax.checkpoint.load import load_checkpoint
from mplug2_jax.checkpoint.parts import find_checkpoint
from mplug2_jax.models.config import MPlug2Config
from mplug2_jax.models.decoder import Memory
from mplug2_jax.models.mplug2 import MPlug2
from mplug2_jax.tasks.base import COMPOSITION, SupervisedTask
from mplug2_jax.tasks.captioning import Captioning
from mplug2_jax.tasks.question_answering import QuestionAnswering
from mplug2_jax.types import MultimodalBatch, Tokens

Kind = Literal["caption", "qa"]
Reference = Mapping[str, np.ndarray]

_TASKS = {"caption": "captioning", "qa": "question_answering"}
_INPUTS = {
    "caption": ("video", "caption_ids", "caption_mask"),
    "qa": ("qa_video", "question_ids", "question_mask", "answer_ids", "answer_mask"),
}


def read_reference(path: str | os.PathLike, kind: Kind) -> Reference:
    """The arrays of a reference file.

    Raises:
      OSError: it cannot be read.
      ValueError: it is no .npz file, or an input is missing.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            reference = dict(stored)
    except (ValueError, EOFError, zipfile.BadZipFile, TypeError, AttributeError):
        raise ValueError(f"{path} is not an .npz file of plain arrays.") from None
    if missing := [name for name in _INPUTS[kind] if name not in reference]:
        raise ValueError(
            f"{path} has no {', '.join(missing)}; it has "
            f"{', '.join(list(reference)[:8])}."
        )
    return reference


def run_model(
    checkpoint: str | os.PathLike, kind: Kind, reference: Reference
) -> dict[str, np.ndarray]:
    """The model's outputs on the reference's inputs, in float32.

    Raises:
      ValueError: no checkpoint, or frames of another size.
    """
    folder, modules = find_checkpoint(checkpoint), COMPOSITION[_TASKS[kind]].modules
    params, metadata = load_checkpoint(folder, modules)
    config = metadata.config.replace(numerics={"dtype": "float32"})
    make = _captioning if kind == "caption" else _answering
    task, batch, outputs = make(config, reference)
    found, size = reference[_INPUTS[kind][0]].shape, config.vision.image_size
    if len(found) != 5 or (found[1], *found[3:]) != (3, size, size):
        raise ValueError(
            f"The reference's video is {found}, the checkpoint expects (B, 3, T, "
            f"{size}, {size}); convert it with --image-size, or make the reference "
            "anew."
        )
    forward = jax.jit(lambda p, b: task.model.apply({"params": p}, b, method=outputs))
    with jax.default_matmul_precision("highest"):
        values = jax.device_get(forward(params, batch))
    words = config.text.vocab_size
    return {
        name: value[..., :words] if name.endswith("logits") else value
        for name, value in values.items()
    }


def differences(ours: Reference, reference: Reference) -> dict[str, float]:
    """The largest absolute difference of every tensor that both have.

    Raises:
      ValueError: there is none, or shapes differ.
    """
    shared = [name for name in ours if name in reference]
    if not shared:
        raise ValueError(
            "The reference holds inputs but nothing to compare; expected some of "
            f"{', '.join(ours)}."
        )
    return {name: _difference(name, ours[name], reference[name]) for name in shared}


def _captioning(config: MPlug2Config, reference: Reference):
    task = Captioning(config, prompt_length=int(reference.get("prompt_length", 0)))
    batch = MultimodalBatch(
        frames=_frames(reference["video"]), caption=_tokens(reference, "caption")
    )

    def outputs(model: MPlug2, batch: Any) -> dict[str, Array]:
        vision = model.encode_vision(batch.frames)
        logits = model.decode(batch.caption, Memory.of(vision.embeds))
        return {
            "vision_tokens": vision.tokens,
            "universal_vision": vision.universal,
            "visual_embeds": vision.embeds,
            "caption_logits": logits,
            "caption_loss": task.loss_of(logits, batch)[0],
        }

    return task, batch, outputs


def _answering(config: MPlug2Config, reference: Reference):
    task: SupervisedTask = QuestionAnswering(config)
    answer = _tokens(reference, "answer")
    batch = MultimodalBatch(
        frames=_frames(reference["qa_video"]),
        question=_tokens(reference, "question"),
        answer=answer,
        answer_weight=jnp.ones(len(answer.values)),
    )

    def outputs(model: MPlug2, batch: Any) -> dict[str, Array]:
        vision = model.encode_vision(batch.frames).embeds
        states = model.encode_text(batch.question)
        mask = batch.question.mask
        fused = model.fuse(vision, states, mask)
        memory = Memory.of(fused.vision, fused.text, mask)
        logits = model.decode(batch.answer, memory)
        return {
            "question_states": states,
            "fusion_image": fused.vision,
            "fusion_text": fused.text,
            "answer_logits": logits,
            "qa_loss": task.loss_of(logits, batch)[0],
        }

    return task, batch, outputs


def _frames(video: np.ndarray) -> Array:
    """`B 3 T H W` as PyTorch has it, to `B T H W 3`."""
    return jnp.asarray(np.moveaxis(video, 1, -1))


def _tokens(reference: Reference, name: str) -> Tokens:
    ids, mask = reference[f"{name}_ids"], reference[f"{name}_mask"]
    return Tokens(jnp.asarray(ids, jnp.int32), jnp.asarray(mask, jnp.int32))


def _difference(name: str, ours: np.ndarray, theirs: np.ndarray) -> float:
    if ours.shape != theirs.shape:
        raise ValueError(
            f"{name} is {theirs.shape} in the reference and {ours.shape} in the model; "
            "they belong to models of different sizes."
        )
    return float(np.abs(ours.astype(np.float64) - theirs).max())
