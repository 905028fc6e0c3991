"""ImageNet-1k, image classification, large model.

Splits: 1281167/50000 images, 1000 classes; papers report the validation split, so
no checkpoint is chosen on it here.
Published: no citable figure of mPLUG-2. Reproduced: no.

    mplug2 prepare tfds:imagenet2012 --manual-dir downloads/imagenet --data-dir data
    mplug2 train --config configs/imagenet.py --workdir runs/imagenet \\
        --config.init_from=checkpoints/pretrained
    mplug2 evaluate --checkpoint runs/imagenet --task classification \\
        --annotations data/imagenet2012/5.1.0 --split validation --crops 3

TFDS names the classes by ids of WordNet. To ask a pretrained checkpoint without any
training, give each its words, a line like n01440764, a tab, tench:

    mplug2 evaluate --checkpoint checkpoints/pretrained \\
        --task zero_shot_classification --classes imagenet_words.txt \\
        --annotations data/imagenet2012/5.1.0 --split validation

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
    config.train.path = "tfds:imagenet2012"
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
    config.optimizer.warmup_steps = 6250
    config.model.vision.drop_path = 0.2
    config.model.numerics.dtype = "bfloat16"
    config.model.numerics.remat = "full"
    config.epochs = 50.0
    return config
