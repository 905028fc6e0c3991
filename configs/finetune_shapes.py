"""Fine-tuning on the synthetic world, captions and answers, as the quickstart trains.

    mplug2 train --config configs/finetune_shapes.py --workdir runs/finetune_shapes

Starts from what configs/pretrain_shapes.py made, and takes half of the quickstart's
steps; from nothing, with all of them:

    mplug2 train --config configs/finetune_shapes.py --workdir runs/shapes_scratch \\
        --config.init_from="" --config.vocab=configs/shapes_words.txt \\
        --config.steps=1500
"""

from mplug2_jax.training.config import default_config


def get_config():
    config = default_config("caption_and_answer", "tiny")
    config.init_from = "runs/pretrain_shapes"
    config.train.path = "data/mplug2_data/shapes/1.0.0"
    config.inputs.num_frames = 4
    config.inputs.prompt = ""
    config.inputs.caption_length = 20
    config.inputs.question_length = 10
    config.inputs.answer_length = 3
    config.batch.batch_size = 32
    config.batch.captions_per_video = 1
    config.batch.questions_per_video = 9
    config.batch.crop_scale = None
    config.batch.flip = False
    config.batch.randaugment = None
    config.batch.keep_clips = True
    config.optimizer.learning_rate = 1e-3
    config.optimizer.vision_learning_rate = 1e-3
    config.optimizer.b2 = 0.98
    config.optimizer.warmup_steps = 50
    config.optimizer.end_learning_rate = 1e-5
    config.optimizer.clip_norm = 1.0
    config.steps = 750
    config.log_every = 50
    config.save_every = 500
    config.decoding.beam_size = 3
    config.decoding.min_caption_length = 1
    return config
