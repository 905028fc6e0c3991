"""Pretraining of the tiny model on the synthetic world; a CPU does it.

    for set in shapes shapes_images shapes_texts; do
        mplug2 prepare $set --data-dir data
    done
    mplug2 train --config configs/pretrain_shapes.py --workdir runs/pretrain_shapes

Videos, images and texts, every objective; docs/pretraining.md shows what it learns. The
vocabulary beside this file has all words of that world and of the instructions.
"""

from pathlib import Path

from mplug2_jax.training.config import default_config, default_part

SETS = {"video": "shapes", "image": "shapes_images", "text": "shapes_texts"}
ROWS = {"video": 32, "image": 32, "text": 64}
WEIGHTS = {"video": 7.0, "image": 2.0, "text": 1.0}


def get_config():
    config = default_config("pretraining", "tiny")
    config.vocab = str(Path(__file__).with_name("shapes_words.txt"))
    for kind, rows in ROWS.items():
        part = default_part(kind)
        part.data.path = f"data/mplug2_data/{SETS[kind]}/1.0.0"
        part.weight = WEIGHTS[kind]
        part.batch.batch_size = rows
        part.batch.crop_scale = None
        part.batch.flip = False
        part.batch.randaugment = None
        part.batch.keep_clips = kind == "video"
        config.mixture[kind] = part
    config.inputs.num_frames = 4
    config.inputs.prompt = ""
    config.inputs.caption_length = 16
    config.inputs.question_length = 16
    config.inputs.answer_length = 16
    config.inputs.text_length = 32
    # Among 32 clips colours and shapes tell all apart; a queue makes directions matter.
    # Without a slow teacher its old features are worth nothing, and contrast diverges.
    config.objectives.queue_size = 512
    # The gradient of contrast is its weight over the temperature: it would drown the
    # others', which teach shapes and motion.
    config.objectives.vlc = 0.05
    config.objectives.min_temperature = 0.03
    config.objectives.vlm = 0.5
    # No soft targets: nothing of this world is ambiguous.
    config.distillation.weight = 0.0
    config.objectives.mlm_probability = 0.3
    config.optimizer.learning_rate = 1e-3
    config.optimizer.vision_learning_rate = 1e-3
    config.optimizer.b2 = 0.98
    config.optimizer.warmup_steps = 100
    config.optimizer.end_learning_rate = 1e-5
    config.optimizer.clip_norm = 1.0
    config.steps = 2000
    config.log_every = 50
    config.save_every = 500
    return config
