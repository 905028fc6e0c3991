"""MSVD captioning, large model.

Splits: 1200/100/670 videos.
Published: B4/M/R/C 70.5/48.4/85.3/165.8 (paper and leaderboards; large).
Reproduced: no.
Hardware of the recipe: 8 GPUs, 4 videos each, two accumulated batches. On one GPU
keep the batch and raise `accumulation`.

    mplug2 train --config configs/msvd_caption.py --workdir runs/msvd_caption \\
        --config.init_from=checkpoints/initial
    mplug2 evaluate --checkpoint runs/msvd_caption --media-dir data/msvd/videos \\
        --annotations data/msvd/caption_test.jsonl

Source: upstream's fine-tuning configuration (10 epochs, 2e-5 and 2e-6, 16 frames).
"""

from mplug2_jax.training.config import default_config


def get_config():
    config = default_config("captioning", "large")
    config.train.path = "data/msvd/caption_train.jsonl"
    config.validation.path = "data/msvd/caption_val.jsonl"
    config.train.media = config.validation.media = "data/msvd/videos"
    config.batch.batch_size = 64
    config.accumulation = 2
    config.batch.captions_per_video = 1
    config.model.numerics.dtype = "bfloat16"
    config.model.numerics.remat = "full"
    config.eval_every = 2000
    return config
