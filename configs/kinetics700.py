"""Kinetics-700, action recognition, large model.

Splits: train and validation, and test where its labels are public; of 529046 and 33925
videos in hosted copies (docs.voxel51.com/dataset_zoo) some are always missing.
Published: top-1 80.4 (paper, by way of Kinetics-710: first trained on the union of the
three sets, which this recipe does not). Reproduced: no.

    mplug2 prepare kinetics700 --manual-dir downloads/kinetics700 --data-dir data
    mplug2 train --config configs/kinetics700.py --workdir runs/kinetics700 \\
        --config.init_from=checkpoints/pretrained
    mplug2 evaluate --checkpoint runs/kinetics700 --task classification \\
        --annotations data/mplug2_data/kinetics700/1.0.0 --split validation \\
        --clips 4 --crops 3

Papers report the validation split, so no checkpoint is chosen on it here.

Source: mPLUG-2's recipe was never released; this is its family's. UniFormerV2, which
fine-tunes CLIP's ViT, too (exp/k400/k400_b16_f8x224/run.sh): 1e-5, 55 epochs, 5 of them
warm-up, tested on 4 clips x 3 crops. VideoMAE (scripts/kinetics, MCG-NJU/VideoMAE):
weight decay 0.05, batch 128, 16 frames. Layer-wise decay 0.75 and mixup 0.8: MAE's
ViT-L (FINETUNE.md, facebookresearch/mae); label smoothing 0.1: arXiv 1512.00567.
Hardware: not measured; meant for 8 GPUs of 80 GB. `mplug2 plan` says what fits.
"""

from mplug2_jax.training.config import default_config


def get_config():
    config = default_config("action_classification", "large")
    config.train.path = "data/mplug2_data/kinetics700/1.0.0"
    config.batch.batch_size = 128
    config.accumulation = 1
    config.batch.flip = True
    config.classification.label_smoothing = 0.1
    config.classification.mixup = 0.8
    config.optimizer.learning_rate = 1e-5
    config.optimizer.vision_learning_rate = 1e-5
    config.optimizer.layer_decay = 0.75
    config.optimizer.weight_decay = 0.05
    config.optimizer.warmup_steps = 21000
    config.model.vision.drop_path = 0.1
    config.model.numerics.dtype = "bfloat16"
    config.model.numerics.remat = "full"
    config.epochs = 55.0
    return config
