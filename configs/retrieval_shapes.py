"""Retrieval on the synthetic world, from what configs/pretrain_shapes.py made.

    mplug2 train --config configs/retrieval_shapes.py --workdir runs/retrieval_shapes
    mplug2 evaluate --checkpoint runs/retrieval_shapes --task retrieval \\
        --annotations data/mplug2_data/shapes/1.0.0 --split test

The second command with --checkpoint runs/pretrain_shapes is retrieval without
fine-tuning.
"""

from mplug2_jax.training.config import default_config


def get_config():
    config = default_config("retrieval", "tiny")
    config.init_from = "runs/pretrain_shapes"
    config.train.path = "data/mplug2_data/shapes/1.0.0"
    config.inputs.num_frames = 4
    config.inputs.prompt = ""
    config.inputs.caption_length = 20
    config.batch.batch_size = 32
    config.batch.captions_per_video = 1
    config.batch.crop_scale = None
    config.batch.flip = False
    config.batch.randaugment = None
    config.batch.keep_clips = True
    config.objectives.negatives = "batch"
    config.optimizer.learning_rate = 5e-4
    config.optimizer.vision_learning_rate = 5e-4
    config.optimizer.b2 = 0.98
    config.optimizer.warmup_steps = 50
    config.optimizer.end_learning_rate = 1e-5
    config.optimizer.clip_norm = 1.0
    config.steps = 500
    config.log_every = 50
    config.save_every = 500
    return config
