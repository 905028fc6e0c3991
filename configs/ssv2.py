"""Something-Something V2, action recognition, large model.

Splits: 168913/24777/27157 videos, 174 classes.
Published: no citable figure of mPLUG-2. Reproduced: no.

    mplug2 prepare ssv2 --manual-dir downloads/ssv2 --data-dir data
    mplug2 train --config configs/ssv2.py --workdir runs/ssv2 \\
        --config.init_from=checkpoints/pretrained
    mplug2 evaluate --checkpoint runs/ssv2 --task classification \\
        --annotations data/mplug2_data/ssv2/1.0.0 --split validation \\
        --clips 2 --crops 3

Papers report the validation split, so no checkpoint is chosen on it here. Clips are not
mirrored: some classes say left and right.

Source: mPLUG-2's recipe was never released; this is its family's. VideoMAE
(scripts/ssv2, MCG-NJU/VideoMAE): 30 epochs, weight decay 0.05, 16 frames, tested on
2 clips x 3 crops; its learning rates are for masked autoencoders, CLIP's are lower
(UniFormerV2: 1e-5).
Layer-wise decay 0.75 and mixup 0.8: MAE's ViT-L (FINETUNE.md, facebookresearch/mae);
label smoothing 0.1: arXiv 1512.00567.
Hardware: not measured; meant for 8 GPUs of 80 GB. `mplug2 plan` says what fits.
"""

from mplug2_jax.training.config import default_config


def get_config():
    config = default_config("action_classification", "large")
    config.train.path = "data/mplug2_data/ssv2/1.0.0"
    config.batch.batch_size = 128
    config.accumulation = 1
    config.batch.flip = False
    config.classification.label_smoothing = 0.1
    config.classification.mixup = 0.8
    config.optimizer.learning_rate = 1e-5
    config.optimizer.vision_learning_rate = 1e-5
    config.optimizer.layer_decay = 0.75
    config.optimizer.weight_decay = 0.05
    config.optimizer.warmup_steps = 6600
    config.model.vision.drop_path = 0.1
    config.model.numerics.dtype = "bfloat16"
    config.model.numerics.remat = "full"
    config.epochs = 30.0
    return config
