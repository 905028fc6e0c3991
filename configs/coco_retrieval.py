"""COCO image-text retrieval (Karpathy's split), large model.

Splits: 113287/5000/5000 images, five captions each.
Published: no citable figure of mPLUG-2. Reproduced: no.

    mplug2 prepare coco_captions --manual-dir downloads/coco --data-dir data
    mplug2 train --config configs/coco_retrieval.py \\
        --workdir runs/coco_retrieval --config.init_from=checkpoints/pretrained
    mplug2 evaluate --checkpoint runs/coco_retrieval --task retrieval \\
        --annotations data/mplug2_data/coco_captions/1.0.0 --rerank 256

The same evaluation of the pretraining checkpoint is zero-shot retrieval.

Source: mPLUG-2's recipe was never released; this is its family's. ALBEF
(configs/Retrieval_coco.yaml): 5 epochs, 1e-5 to 1e-6, weight decay 0.02, batch 256,
queue 65536, momentum 0.995, soft targets 0.4 after the first epoch, k 256; its images
have 384 pixels. mPLUG-2's other recipes: a tenth of the learning rate for vision.
Hardware: not measured; meant for 8 GPUs of 80 GB. `mplug2 plan` says what fits, and
`accumulation`, which changes no loss but the dropout drawn, makes it fit less.
"""

from mplug2_jax.training.config import default_config


def get_config():
    config = default_config("retrieval", "large")
    config.train.path = "data/mplug2_data/coco_captions/1.0.0"
    config.validation.path = config.train.path
    config.validation.split = "validation"
    config.inputs.caption_length = 32
    config.batch.batch_size = 256
    config.accumulation = 1
    config.batch.captions_per_video = 1
    config.optimizer.learning_rate = 1e-5
    config.optimizer.vision_learning_rate = 1e-6
    config.distillation.weight = 0.4
    config.distillation.ramp_steps = 2200
    config.rerank = 256
    config.model.numerics.dtype = "bfloat16"
    config.model.numerics.remat = "full"
    config.epochs = 5.0
    config.eval_every = 2200
    config.eval_examples = 1000
    config.best_by = "text_to_video/recall_1"
    return config
