"""MSRVTT captioning by instruction (paper figure 1), large model.

The question "what does the video describe?" takes the place of the prompt: text encoder
and fusion are used as in question answering. configs/msrvtt_caption.py is the released
form.

Splits: 6513/497/2990 videos.
Published: no citable figure of mPLUG-2 (its released captioning has a prompt).
Reproduced: no.

    mplug2 prepare msrvtt_caption --manual-dir downloads/msrvtt --data-dir data
    mplug2 train --config configs/msrvtt_caption_instruction.py \\
        --workdir runs/msrvtt_caption_instruction \\
        --config.init_from=checkpoints/pretrained
    mplug2 evaluate --checkpoint runs/msrvtt_caption_instruction --task caption \\
        --annotations data/mplug2_data/msrvtt_caption/1.0.0

Source: upstream's fine-tuning configuration of the released form (10 epochs, 2e-5 and
2e-6, 16 frames, batch 64); the wording is the paper's example, as pretraining has it
(data/templates.py).
Hardware: not measured; meant for 8 GPUs of 80 GB.
"""

from mplug2_jax.training.config import default_config


def get_config():
    config = default_config("captioning_by_instruction", "large")
    config.train.path = "data/mplug2_data/msrvtt_caption/1.0.0"
    config.validation.path = config.train.path
    config.validation.split = "validation"
    config.inputs.instruction = "what does the video describe?"
    config.batch.batch_size = 64
    config.accumulation = 2
    config.batch.captions_per_video = 1
    config.model.numerics.dtype = "bfloat16"
    config.model.numerics.remat = "full"
    config.eval_every = 2000
    return config
