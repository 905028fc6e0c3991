"""CIFAR-100, a transfer set, image classification, large model.

Splits: 50000 images for training and 10000 for test, 100 classes.
Published: no citable figure of mPLUG-2. Reproduced: no.

    mplug2 prepare tfds:cifar100 --data-dir data
    mplug2 train --config configs/cifar100.py --workdir runs/cifar100 \\
        --config.init_from=checkpoints/pretrained
    mplug2 evaluate --checkpoint runs/cifar100 --task classification \\
        --annotations data/cifar100/3.0.2 --split test --crops 3

Other transfer sets of TFDS, such as cifar10, food101, oxford_iiit_pet or
oxford_flowers102, are prepared and trained in the same way, with
--config.train.path=tfds:NAME: every set with an image and a label is read.

Source: mPLUG-2's recipe was never released; this is its family's. MAE's ViT-L
(FINETUNE.md, facebookresearch/mae): 50 epochs, batch 1024, layer-wise decay 0.75,
weight decay 0.05, drop path 0.2, mixup 0.8; label smoothing 0.1: arXiv 1512.00567. Its
learning rate is for masked autoencoders; CLIP's ViT fine-tunes at lower ones
(UniFormerV2: 1e-5).
Hardware: not measured; meant for 8 GPUs of 80 GB. `mplug2 plan` says what fits.
"""

from mplug2_jax.training.config import default_config


def get_config():
    config = default_config("image_classification", "large")
    config.train.path = "tfds:cifar100"
    config.train.data_dir = "data"
    config.batch.batch_size = 1024
    config.accumulation = 8
    config.batch.crop_scale = (0.2, 1.0)
    config.classification.label_smoothing = 0.1
    config.classification.mixup = 0.8
    config.optimizer.learning_rate = 1e-5
    config.optimizer.vision_learning_rate = 1e-5
    config.optimizer.layer_decay = 0.75
    config.optimizer.weight_decay = 0.05
    config.optimizer.warmup_steps = 250
    config.model.vision.drop_path = 0.2
    config.model.numerics.dtype = "bfloat16"
    config.model.numerics.remat = "full"
    config.epochs = 50.0
    return config
