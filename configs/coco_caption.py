"""COCO captioning (Karpathy's split), large model; also tested on NoCaps.

Splits: 113287/5000/5000 images, five captions each; NoCaps: 4500 (validation), of 648
in, 2938 near and 914 out of COCO's domain, and 10600 (test, scored by its server),
ten each.
Published: no citable figure of mPLUG-2. Reproduced: no.

    mplug2 prepare coco_captions --manual-dir downloads/coco --data-dir data
    mplug2 train --config configs/coco_caption.py --workdir runs/coco_caption \\
        --config.init_from=checkpoints/pretrained
    mplug2 evaluate --checkpoint runs/coco_caption --task caption \\
        --annotations data/mplug2_data/coco_captions/1.0.0

    mplug2 prepare nocaps --manual-dir downloads/nocaps --data-dir data
    mplug2 evaluate --checkpoint runs/coco_caption --task caption --split validation \\
        --annotations data/mplug2_data/nocaps/1.0.0
    mplug2 evaluate --checkpoint runs/coco_caption --task caption --split test \\
        --annotations data/mplug2_data/nocaps/1.0.0 --predictions captions.json

The scores of NoCaps come overall and by domain. Nobody trains on NoCaps.

Source: mPLUG-2's recipe was never released; this is its family's. mPLUG (AliceMind,
mPLUG/configs/caption_mplug_large.yaml, scripts/caption_mplug_large.sh): 5 epochs, 1e-5
and for vision 5e-6 to 1e-6, weight decay 0.02, no prompt, at least 8 tokens, beams, 336
pixels, batch 64 on each of 4 GPUs. Its second stage, which optimises CIDEr itself, is
not here.
Hardware: not measured; meant for 8 GPUs of 80 GB.
"""

from mplug2_jax.training.config import default_config


def get_config():
    config = default_config("captioning", "large")
    config.train.path = "data/mplug2_data/coco_captions/1.0.0"
    config.validation.path = config.train.path
    config.validation.split = "validation"
    config.inputs.num_frames = 1
    config.inputs.prompt = ""
    config.inputs.caption_length = 25
    config.batch.batch_size = 256
    config.accumulation = 1
    config.batch.captions_per_video = 1
    config.optimizer.learning_rate = 1e-5
    config.optimizer.vision_learning_rate = 5e-6
    config.model.numerics.dtype = "bfloat16"
    config.model.numerics.remat = "full"
    config.decoding.min_caption_length = 8
    config.epochs = 5.0
    config.eval_every = 2200
    config.eval_examples = 1000
    config.best_by = "caption/cider"
    return config
