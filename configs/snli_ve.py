"""SNLI-VE (does a sentence follow from an image), large model.

Splits: 529527/17858/17901 sentences about 29783/1000/1000 images.
Published: no citable figure of mPLUG-2. Reproduced: no.

    mplug2 prepare snli_ve --manual-dir downloads/snli_ve --data-dir data
    mplug2 train --config configs/snli_ve.py --workdir runs/snli_ve \\
        --config.init_from=checkpoints/pretrained
    mplug2 evaluate --checkpoint runs/snli_ve \\
        --annotations data/mplug2_data/snli_ve/1.0.0 --split test

Source: mPLUG-2's recipe was never released; this is its family's. ALBEF
(configs/VE.yaml): 5 epochs, 2e-5 to 1e-6, weight decay 0.02, batch 32 on each of 8
GPUs, images of 384 pixels.
mPLUG-2's other recipes: a tenth of the learning rate for vision.
Hardware: not measured; meant for 8 GPUs of 40 GB. `mplug2 plan` says what fits, and
`accumulation` makes a step take less memory.
"""

from mplug2_jax.training.config import default_config


def get_config():
    config = default_config("pair_classification", "large")
    config.train.path = "data/mplug2_data/snli_ve/1.0.0"
    config.validation.path = config.train.path
    config.validation.split = "validation"
    config.inputs.text_length = 40
    config.batch.batch_size = 256
    config.batch.texts_per_medium = 1
    config.epochs = 5.0
    config.accumulation = 1
    config.optimizer.learning_rate = 2e-5
    config.optimizer.vision_learning_rate = 2e-6
    config.optimizer.end_learning_rate = 1e-6
    config.model.numerics.dtype = "bfloat16"
    config.model.numerics.remat = "full"
    config.eval_every = 1000
    config.best_by = "pairs/accuracy"
    return config
