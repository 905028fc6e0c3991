"""Your own videos: captions and questions from one JSONL file.

One line per video, media beside the file (or in --config.train.media):

    {"video": "a.mp4", "captions": ["a cat jumps"], "qa": [{"question": "what jumps",
     "answer": "cat"}]}

    mplug2 train --config configs/own_videos.py --workdir runs/mine \
        --config.init_from=checkpoints/initial --config.train.path=mine.jsonl

Without captions set --config.task=question_answering, without questions
--config.task=captioning, and the count of the missing kind to 0. Upstream's recipe with
fewer frames and a smaller batch, so that one GPU serves.
"""

from mplug2_jax.training.config import default_config


def get_config():
    config = default_config("caption_and_answer", "large")
    config.inputs.num_frames = 8
    config.batch.batch_size = 4
    config.batch.captions_per_video = 1
    config.batch.questions_per_video = 2
    config.batch.flip = False
    config.optimizer.warmup_steps = 50
    config.save_every = 100
    config.model.numerics.dtype = "bfloat16"
    config.model.numerics.remat = "full"
    return config
