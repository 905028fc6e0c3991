"""Captions on the synthetic world in the released form: a prompt, vision alone is read.

    mplug2 prepare shapes --data-dir data
    mplug2 train --config configs/caption_shapes.py --workdir runs/caption_shapes
    mplug2 evaluate --checkpoint runs/caption_shapes \\
        --annotations data/mplug2_data/shapes/1.0.0 --task caption

Starts from what configs/pretrain_shapes.py made; docs/tasks.md shows what it learns.
"""

from mplug2_jax.training.config import default_config


def get_config():
    config = default_config("captioning", "tiny")
    config.init_from = "runs/pretrain_shapes"
    config.train.path = "data/mplug2_data/shapes/1.0.0"
    config.inputs.prompt, config.inputs.prompt_joined = "in the video", False
    config.inputs.caption_length = 20
    config.batch.captions_per_video = 1
    config.decoding.beam_size = 3
    config.decoding.min_caption_length = 1
    config.inputs.num_frames = 4
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
    config.steps = 1000
    config.log_every = 50
    config.save_every = 500
    return config
