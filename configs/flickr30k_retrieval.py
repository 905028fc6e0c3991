"""Flickr30k image-text retrieval (Karpathy's split), large model.

Splits: 29000/1014/1000 images, five captions each.
Published: no citable figure of mPLUG-2. Reproduced: no.

    mplug2 prepare flickr30k_captions --manual-dir downloads/flickr30k --data-dir data
    mplug2 train --config configs/flickr30k_retrieval.py \\
        --workdir runs/flickr30k_retrieval --config.init_from=checkpoints/pretrained
    mplug2 evaluate --checkpoint runs/flickr30k_retrieval --task retrieval \\
        --annotations data/mplug2_data/flickr30k_captions/1.0.0 --rerank 128

The same evaluation of the pretraining checkpoint is zero-shot retrieval.

Source: mPLUG-2's recipe was never released; this is its family's. ALBEF
(configs/Retrieval_flickr.yaml): 10 epochs, 1e-5 to 1e-6, weight decay 0.02, batch 256,
queue 65536, momentum 0.995, soft targets 0.4 after the first epoch, k 128; its images
have 384 pixels. mPLUG-2's other recipes: a tenth of the learning rate for vision.
Hardware: not measured; meant for 8 GPUs of 80 GB. `mplug2 plan` says what fits, and
`accumulation`, which changes no loss but the dropout drawn, makes it fit less.
"""

from mplug2_jax.training.config import default_config


def get_config():
    config = default_config("retrieval", "large")
    config.train.path = "data/mplug2_data/flickr30k_captions/1.0.0"
    config.validation.path = config.train.path
    config.validation.split = "validation"
    config.inputs.caption_length = 32
    config.batch.batch_size = 256
    config.accumulation = 1
    config.batch.captions_per_video = 1
    config.optimizer.learning_rate = 1e-5
    config.optimizer.vision_learning_rate = 1e-6
    config.distillation.weight = 0.4
    config.distillation.ramp_steps = 570
    config.rerank = 128
    config.model.numerics.dtype = "bfloat16"
    config.model.numerics.remat = "full"
    config.epochs = 10.0
    config.eval_every = 570
    config.best_by = "text_to_video/recall_1"
    return config
