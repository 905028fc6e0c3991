"""MSRVTT captioning, large model.

Splits: 6513/497/2990 videos (or 7010/2990; not 1k-A, whose single references give
CIDEr near 0.64).
Published: B4/M/R/C 57.8/34.9/70.1/80.3 (paper and leaderboards; large). Reproduced:
no.
Hardware of the recipe: 8 GPUs, 4 videos each, two accumulated batches. On one GPU
keep the batch and raise `accumulation`.

    mplug2 train --config configs/msrvtt_caption.py --workdir runs/msrvtt_caption \\
        --config.init_from=checkpoints/initial
    mplug2 evaluate --checkpoint runs/msrvtt_caption --media-dir data/msrvtt/videos \\
        --annotations data/msrvtt/caption_test.jsonl

Source: upstream's fine-tuning configuration (10 epochs, 2e-5 and 2e-6, 16 frames).
"""

from mplug2_jax.training.config import default_config


def get_config():
    config = default_config("captioning", "large")
    config.train.path = "data/msrvtt/caption_train.jsonl"
    config.validation.path = "data/msrvtt/caption_val.jsonl"
    config.train.media = config.validation.media = "data/msrvtt/videos"
    config.batch.batch_size = 64
    config.accumulation = 2
    config.batch.captions_per_video = 1
    config.model.numerics.dtype = "bfloat16"
    config.model.numerics.remat = "full"
    config.eval_every = 2000
    return config
