"""A small model in use: the weights of the golden `base` with a tokenizer of its size.

Its outputs depend on what it sees, and every test uses the same few shapes, so that
little is compiled.
"""

import functools
import os
import socket
import subprocess
import sys
from pathlib import Path

import goldens
import jax
import numpy as np

from mplug2_jax.checkpoint.load import Metadata, save_checkpoint
from mplug2_jax.conversion import convert_state_dict
from mplug2_jax.data import shapes
from mplug2_jax.data.inputs import InputConfig
from mplug2_jax.data.tokenizers import WordPieceTokenizer
from mplug2_jax.decoding.settings import Decoding
from mplug2_jax.models.config import tiny
from mplug2_jax.models.mplug2 import HEADS, MODULES, MPlug2
from mplug2_jax.predictor import Predictor
from mplug2_jax.sharding.distributed import BY_HAND

FRAMES, SIZE, BEAM = 4, 28, 4
# Lengths of the goldens; a prompt of one token makes captions at least two long.
INPUTS = InputConfig(
    num_frames=FRAMES,
    caption_length=9,
    question_length=6,
    answer_length=9,
    prompt="about",
)
DECODING = Decoding(rule="upstream", beam_size=BEAM)
RANKING = Decoding(ranked=5)  # of a dozen candidates, as the goldens do
# A model that is trained in tests, in seconds.
SLIGHT = tiny().replace(
    vision={"width": 32, "num_layers": 1, "num_heads": 2, "mlp_dim": 64},
    text={
        "width": 32,
        "num_heads": 2,
        "num_layers": 2,
        "mlp_dim": 64,
        "dropout": 0.0,
        "attention_dropout": 0.0,
    },
    fusion={"num_layers": 1},
    universal={"num_layers": 1, "num_latents": 4},
)
QUESTIONS = ("w91 w23", "w10 w6 w5", "w44")


@functools.cache
def tokenizer() -> WordPieceTokenizer:
    """120 pieces with the special ones at BERT's places."""
    pieces = [f"w{index}" for index in range(120)]
    pieces[0], pieces[7] = "[PAD]", "about"
    pieces[100:104] = ["[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return WordPieceTokenizer.from_vocab(pieces)


@functools.cache
def params():
    """On the first device, where loading puts them too, so that code is shared."""
    return jax.device_put(goldens.params("base"), jax.local_devices()[0])


def predictor(batch_size: int = 2, decoding: Decoding = DECODING) -> Predictor:
    model = MPlug2(goldens.config("base"), MODULES)
    return Predictor(model, params(), tokenizer(), INPUTS, decoding, batch_size)


def metadata(modules=MODULES, **changed) -> Metadata:
    inputs = {name: getattr(INPUTS, name) for name in vars(INPUTS)}
    config = goldens.config("base")
    return Metadata(config, modules, "upstream", inputs=inputs | changed)


def save(directory, modules=MODULES, with_tokenizer=True):
    """Writes it as a checkpoint; returns the folder."""
    save_checkpoint(
        directory,
        goldens.params("base", modules),
        metadata(modules),
        tokenizer=tokenizer() if with_tokenizer else None,
    )
    return directory


@functools.cache
def pretrained():
    """The model with pretraining's heads: its configuration, modules and weights."""
    config = goldens.config("base").replace(contrastive={"width": 32})
    modules, weights = (*MODULES, *HEADS), goldens.state_dict("base", "pretrain")
    params, _, _ = convert_state_dict(weights, config, modules)
    return config, modules, params


def save_pretrained(folder):
    """Writes it as a checkpoint; returns the folder."""
    config, modules, params = pretrained()
    its = Metadata(config, modules, inputs=metadata().inputs)
    save_checkpoint(folder, params, its, tokenizer=tokenizer())
    return folder


def clip(index: int) -> np.ndarray:
    """Frames of a synthetic clip."""
    scene = shapes.make_scene(shapes.scene_rng("test", 0, index))
    return shapes.render(scene, FRAMES, SIZE)


def write_clips(folder, count: int) -> list[str]:
    """The first clips as mp4 files."""
    paths = []
    for index in range(count):
        path = folder / f"clip{index}.mp4"
        path.write_bytes(shapes.encode_mp4(clip(index)))
        paths.append(str(path))
    return paths


# Gloo's lines, written to the file itself and in pieces, are not what Python prints.
PRINTS_APART = """
import os
import sys

sys.stdout = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
"""


def in_two_processes(code: str, *arguments, status: int = 0) -> list[str]:
    """What each of two processes prints, which find each other by `initialize`.

    This folder is on their path. Fails if one of them ends with another status.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        where = f"localhost:{free.getsockname()[1]}"
    path = f"{Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}"
    shared = {"JAX_PLATFORMS": "cpu", "JAX_DEFAULT_MATMUL_PRECISION": "highest"}
    shared = os.environ | shared | {"PYTHONPATH": path}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PRINTS_APART + code, *map(str, arguments)],
            env=shared | dict(zip(BY_HAND, (where, "2", str(index)), strict=True)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    said = [process.communicate(timeout=480) for process in running]
    for process, (_, error) in zip(running, said, strict=True):
        assert process.returncode == status, error
    return [out for out, _ in said]
