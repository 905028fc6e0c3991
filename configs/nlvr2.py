"""NLVR2 (is a sentence true of two photographs), large model.

Splits: 86373/6982/6967 sentences; test is the public test1.
Published: no citable figure of mPLUG-2. Reproduced: no.

    mplug2 prepare nlvr2 --manual-dir downloads/nlvr2 --data-dir data
    mplug2 train --config configs/nlvr2.py --workdir runs/nlvr2 \\
        --config.init_from=checkpoints/pretrained
    mplug2 evaluate --checkpoint runs/nlvr2 \\
        --annotations data/mplug2_data/nlvr2/1.0.0 --split test

Source: mPLUG-2's recipe was never released; this is its family's. ALBEF
(configs/NLVR.yaml): 10 epochs, 2e-5 to 1e-6, weight decay 0.02, batch 16 on each of 8
GPUs, images of 384 pixels. Each image is read with the sentence by itself, and the
class tokens stand side by side (BEiT-3, arXiv 2208.10442).
mPLUG-2's other recipes: a tenth of the learning rate for vision.
Hardware: not measured; meant for 8 GPUs of 40 GB. `mplug2 plan` says what fits, and
`accumulation` makes a step take less memory.
"""

from mplug2_jax.training.config import default_config


def get_config():
    config = default_config("pair_classification", "large")
    config.train.path = "data/mplug2_data/nlvr2/1.0.0"
    config.validation.path = config.train.path
    config.validation.split = "validation"
    config.model.classifier.num_media = 2
    config.inputs.text_length = 40
    config.batch.batch_size = 128
    config.batch.texts_per_medium = 1
    config.batch.flip = False  # left and right are said of the images
    config.epochs = 10.0
    config.accumulation = 1
    config.optimizer.learning_rate = 2e-5
    config.optimizer.vision_learning_rate = 2e-6
    config.optimizer.end_learning_rate = 1e-6
    config.model.numerics.dtype = "bfloat16"
    config.model.numerics.remat = "full"
    config.eval_every = 1000
    config.best_by = "pairs/accuracy"
    return config
