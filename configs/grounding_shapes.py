"""Grounding on the synthetic world: the box of "the red shape" in a still image.

    mplug2 prepare shapes_boxes --data-dir data
    mplug2 train --config configs/grounding_shapes.py --workdir runs/grounding_shapes
    mplug2 evaluate --checkpoint runs/grounding_shapes \\
        --annotations data/mplug2_data/shapes_boxes/1.0.0

Starts from what configs/pretrain_shapes.py made; docs/tasks.md shows what it learns.
"""

from mplug2_jax.training.config import default_config


def get_config():
    config = default_config("grounding", "tiny")
    config.init_from = "runs/pretrain_shapes"
    config.train.path = "data/mplug2_data/shapes_boxes/1.0.0"
    config.inputs.question_length = 8
    config.inputs.num_bins = 32
    # A fifth of a patch decides: distances must count beside tokens.
    config.grounding.l1 = 5.0
    config.grounding.giou = 2.0
    config.batch.texts_per_medium = 4
    config.inputs.num_frames = 1
    config.batch.batch_size = 32
    config.batch.crop_scale = None
    config.batch.flip = False
    config.batch.randaugment = None
    config.batch.keep_clips = True
    config.optimizer.learning_rate = 1e-3
    config.optimizer.vision_learning_rate = 1e-3
    config.optimizer.b2 = 0.98
    config.optimizer.warmup_steps = 100
    config.optimizer.end_learning_rate = 1e-5
    config.optimizer.clip_norm = 1.0
    config.steps = 3000
    config.log_every = 50
    config.save_every = 500
    return config
