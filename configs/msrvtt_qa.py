"""MSRVTT-QA, large model.

Splits: 158581/12278/72821 questions.
Published: accuracy 48.0 (paper and leaderboards; large). Reproduced: no.
Hardware of the recipe: 8 GPUs, 4 videos each. On one GPU keep the batch and raise
`accumulation`.

    mplug2 train --config configs/msrvtt_qa.py --workdir runs/msrvtt_qa \\
        --config.init_from=checkpoints/initial
    mplug2 evaluate --checkpoint runs/msrvtt_qa --media-dir data/msrvtt/videos \\
        --annotations data/msrvtt/qa_test.jsonl

Source: upstream's fine-tuning configuration (10 epochs, 2e-5 and 2e-6, 16 frames).
"""

from mplug2_jax.training.config import default_config


def get_config():
    config = default_config("question_answering", "large")
    config.train.path = "data/msrvtt/qa_train.jsonl"
    config.validation.path = "data/msrvtt/qa_val.jsonl"
    config.train.media = config.validation.media = "data/msrvtt/videos"
    config.batch.batch_size = 32
    config.accumulation = 1
    config.batch.questions_per_video = 1
    config.model.numerics.dtype = "bfloat16"
    config.model.numerics.remat = "full"
    config.eval_every = 2000
    return config
