"""TGIF-QA (FrameQA), large model.

Splits: the official train and test questions, .gif files.
Published: no figure that can be cited. Reproduced: no.
Hardware of the recipe: 8 GPUs, 4 videos each. On one GPU keep the batch and raise
`accumulation`.

    mplug2 train --config configs/tgif_qa.py --workdir runs/tgif_qa \
        --config.init_from=checkpoints/initial

Source: upstream's fine-tuning configuration (10 epochs, 2e-5 and 2e-6, 16 frames).
"""

from mplug2_jax.training.config import default_config


def get_config():
    config = default_config("question_answering", "large")
    config.train.path = "data/tgif/qa_train.jsonl"
    config.validation.path = "data/tgif/qa_val.jsonl"
    config.train.media = config.validation.media = "data/tgif/videos"
    config.batch.batch_size = 32
    config.accumulation = 1
    config.batch.questions_per_video = 1
    config.model.numerics.dtype = "bfloat16"
    config.model.numerics.remat = "full"
    config.eval_every = 2000
    return config
