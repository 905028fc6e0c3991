"""Seven segments of real footage, learned by heart by the tiny model in minutes.

    python tests/real_footage.py footage
    mplug2 train --config configs/real_footage.py --workdir runs/footage
    mplug2 caption footage/*.mp4 --checkpoint runs/footage
    mplug2 ask footage/segment_4.mp4 "who walks past" --checkpoint runs/footage

Hardware: any CPU. Expected: every caption and every answer as annotated.
"""

from mplug2_jax.training.config import default_config


def get_config():
    config = default_config("caption_and_answer", "tiny")
    config.train.path = "footage/segments.jsonl"
    config.vocab = "footage/tokenizer"
    config.inputs.num_frames = 4
    config.inputs.prompt = ""
    config.batch.batch_size = 7
    config.batch.captions_per_video = 1
    config.batch.questions_per_video = 2
    config.batch.crop_scale = None
    config.batch.flip = False
    config.batch.randaugment = None
    config.batch.keep_clips = True
    config.optimizer.learning_rate = 1e-3
    config.optimizer.vision_learning_rate = 1e-3
    config.optimizer.warmup_steps = 20
    config.optimizer.clip_norm = 1.0
    config.steps = 200
    return config
