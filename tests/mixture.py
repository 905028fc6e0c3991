"""A small pretraining run on the synthetic world, for processes of their own.

Videos, images and texts, all objectives, a queue of momentum features and a teacher.
"""

import json
import textwrap
from pathlib import Path

from PIL import Image

from mplug2_jax.data import shapes
from mplug2_jax.data.tokenizers import WordPieceTokenizer

CONFIG = """
from mplug2_jax.training.config import default_config, default_part

def get_config():
    config = default_config("pretraining", "tiny")
    config.vocab = "{root}/tokenizer"
    config.model.vision.update(
        width=32, num_layers=1, num_heads=2, image_size=24, mlp_dim=64)
    config.model.text.update(width=32, num_heads=2, mlp_dim=64, num_layers=2)
    config.model.universal.update(num_layers=1, num_latents=4)
    config.model.fusion.num_layers = config.model.decoder.num_layers = 1
    config.model.contrastive.width = 16
    config.objectives.queue_size = 16
    config.inputs.update(num_frames=2, caption_length=16, question_length=10,
                         answer_length=16, text_length=16, prompt="")
    files = dict(video="train.jsonl", image="image.jsonl", text="text.txt")
    for kind, path in files.items():
        config.mixture[kind] = default_part(kind)
        config.mixture[kind].data.path = "{root}/" + path
        config.mixture[kind].batch.update(batch_size={rows}, threads=1)
    config.distillation.weight = 0.4
    config.optimizer.update(learning_rate=1e-3, vision_learning_rate=1e-3,
                            clip_norm=1.0)
    config.log_every = 1
{changed}
    return config
"""


def write_run(root: Path, clips: int, rows: int, changed: str) -> Path:
    """Writes clips, stills and lines of text, and the file of a run on them.

    Args:
      clips: how many, and as many stills.
      rows: of a batch.
      changed: lines that set further values of `config`.
    """
    annotations = shapes.write_dataset(root, "train", clips, num_frames=4, size=24)
    WordPieceTokenizer.from_words(shapes.vocabulary()).save(root / "tokenizer")
    lines = [json.loads(line) for line in annotations.read_text().splitlines()]
    stills, texts = [], []
    for index, line in enumerate(lines):
        scene = shapes.make_scene(shapes.scene_rng("train", 0, index))
        Image.fromarray(shapes.render(scene, 4, 24)[0]).save(root / f"{index}.png")
        stills.append({"image": f"{index}.png", "captions": line["captions"]})
        texts += line["captions"]
    (root / "image.jsonl").write_text("\n".join(map(json.dumps, stills)))
    (root / "text.txt").write_text("\n".join(texts))
    changed = textwrap.indent(textwrap.dedent(changed).strip(), 4 * " ")
    file = root / "config.py"
    file.write_text(CONFIG.format(root=root, rows=rows, changed=changed))
    return file
