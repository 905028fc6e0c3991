"""DiDeMo paragraph-to-video retrieval, large model.

Splits: 8395/1065/1004 videos; a video's descriptions, joined, are its one caption.
Published, text to video R@1/5/10: 56.4/79.1/85.2, zero-shot 45.7/71.1/79.2 (paper;
large). Reproduced: no.

    mplug2 prepare didemo_retrieval --manual-dir downloads/didemo --data-dir data
    mplug2 train --config configs/didemo_retrieval.py \\
        --workdir runs/didemo_retrieval --config.init_from=checkpoints/pretrained
    mplug2 evaluate --checkpoint runs/didemo_retrieval --task retrieval \\
        --annotations data/mplug2_data/didemo_retrieval/1.0.0 --rerank 128

Zero-shot: the same of the pretraining checkpoint, whose captions were shorter, with
--caption-length 64 behind --task retrieval.

Source: mPLUG-2's recipe was never released; this is its family's. ALBEF
(configs/Retrieval_coco.yaml): 1e-5 to 1e-6, weight decay 0.02, queue 65536, momentum
0.995, soft targets 0.4 after the first epoch. Singularity (jayleicn/singularity,
configs/ret_didemo.yaml): 10 epochs, 64 tokens, k 128. mPLUG-2's other recipes: 16
frames, a tenth of the learning rate for vision.
Hardware: not measured; meant for 8 GPUs of 80 GB. `mplug2 plan` says what fits, and
`accumulation`, which changes no loss but the dropout drawn, makes it fit less.
"""

from mplug2_jax.training.config import default_config


def get_config():
    config = default_config("retrieval", "large")
    config.train.path = "data/mplug2_data/didemo_retrieval/1.0.0"
    config.validation.path = config.train.path
    config.validation.split = "validation"
    config.inputs.caption_length = 64
    config.batch.batch_size = 128
    config.accumulation = 4
    config.batch.captions_per_video = 1
    config.optimizer.learning_rate = 1e-5
    config.optimizer.vision_learning_rate = 1e-6
    config.distillation.weight = 0.4
    config.distillation.ramp_steps = 65
    config.rerank = 128
    config.model.numerics.dtype = "bfloat16"
    config.model.numerics.remat = "full"
    config.epochs = 10.0
    config.optimizer.warmup_steps = 65
    config.eval_every = 130
    config.best_by = "text_to_video/recall_1"
    return config
