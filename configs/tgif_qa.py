"""TGIF-QA (FrameQA), large model.

Splits: 39392 questions for training and 13691 for testing, about .gif files; nobody has
validation data, so the last checkpoint counts.
Published: no figure that can be cited. Reproduced: no.
Hardware of the recipe: 8 GPUs, 4 videos each. On one GPU keep the batch and raise
`accumulation`.

    mplug2 prepare tgif_frame_qa --manual-dir downloads/tgif --data-dir data
    mplug2 train --config configs/tgif_qa.py --workdir runs/tgif_qa \\
        --config.init_from=checkpoints/initial
    mplug2 evaluate --checkpoint runs/tgif_qa \\
        --annotations data/mplug2_data/tgif_frame_qa/1.0.0

Source: upstream's fine-tuning configuration (10 epochs, 2e-5 and 2e-6, 16 frames).
"""

from mplug2_jax.training.config import default_config


def get_config():
    config = default_config("question_answering", "large")
    config.train.path = "data/mplug2_data/tgif_frame_qa/1.0.0"
    config.batch.batch_size = 32
    config.accumulation = 1
    config.batch.questions_per_video = 1
    config.model.numerics.dtype = "bfloat16"
    config.model.numerics.remat = "full"
    return config
