"""MSRVTT retrieval (1k-A), large model.

Splits: 9000/1000 videos, 20 captions each in training, one in test; nobody has
validation data, so the last checkpoint counts.
Published, text to video R@1/5/10: 53.1/77.6/84.7, zero-shot 47.1/69.7/79.0 (paper;
large). Reproduced: no.

    mplug2 prepare msrvtt_retrieval --manual-dir downloads/msrvtt --data-dir data
    mplug2 train --config configs/msrvtt_retrieval.py \\
        --workdir runs/msrvtt_retrieval --config.init_from=checkpoints/pretrained
    mplug2 evaluate --checkpoint runs/msrvtt_retrieval --task retrieval \\
        --annotations data/mplug2_data/msrvtt_retrieval/1.0.0 --rerank 128

The same evaluation of the pretraining checkpoint is zero-shot retrieval.

Source: mPLUG-2's recipe was never released; this is its family's. ALBEF
(configs/Retrieval_coco.yaml): 1e-5 to 1e-6, weight decay 0.02, queue 65536, momentum
0.995, soft targets 0.4 after the first epoch. Singularity (jayleicn/singularity,
configs/ret_msrvtt.yaml): 5 epochs, 32 tokens, k 128. mPLUG-2's other recipes: 16
frames, a tenth of the learning rate for vision.
Hardware: not measured; meant for 8 GPUs of 80 GB. `mplug2 plan` says what fits, and
`accumulation`, which changes no loss but the dropout drawn, makes it fit less.
"""

from mplug2_jax.training.config import default_config


def get_config():
    config = default_config("retrieval", "large")
    config.train.path = "data/mplug2_data/msrvtt_retrieval/1.0.0"
    config.inputs.caption_length = 32
    config.batch.batch_size = 128
    config.accumulation = 4
    config.batch.captions_per_video = 1
    config.optimizer.learning_rate = 1e-5
    config.optimizer.vision_learning_rate = 1e-6
    config.distillation.weight = 0.4
    config.distillation.ramp_steps = 1400
    config.rerank = 128
    config.model.numerics.dtype = "bfloat16"
    config.model.numerics.remat = "full"
    config.epochs = 5.0
    return config
