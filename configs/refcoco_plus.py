"""RefCOCO+ visual grounding, large model.

Splits (train/validation/testA/testB): 16992/1500/750/750 images with
120191/10758/5726/4889 phrases; UNC's.
Published: no citable figure of mPLUG-2. Reproduced: no.

    mplug2 prepare refcoco_plus --manual-dir downloads --data-dir data
    mplug2 train --config configs/refcoco_plus.py \\
        --workdir runs/refcoco_plus --config.init_from=checkpoints/pretrained
    mplug2 evaluate --checkpoint runs/refcoco_plus --task grounding --split testA \\
        --annotations data/mplug2_data/refcoco_plus/1.0.0

Source: mPLUG-2's recipe was never released; this is its family's. mPLUG
(github.com/alibaba/AliceMind, mPLUG/configs/grounding_mplug_large.yaml): 120 epochs,
20 of them warm-up, 2e-5 and 5e-6 for vision to 1e-6, weight decay 0.02, 192 phrases a
step, 20 tokens of each, 336 steps of width and height. Not as there: it has 336 pixels
where a checkpoint of mPLUG-2 has 224, trains on all three sets and ReferIt before the
one set, crops and mirrors images with their boxes, and multiplies each token's loss by
the error of its box; here L1 and GIoU of the expected box are added (X-VLM, arXiv
2111.08276), and a step takes four phrases of each of 48 images.
Hardware: not measured; the family's was 8 GPUs. `mplug2 plan` says what fits, and
`accumulation`, which changes no loss but the dropout drawn, makes it fit less.
"""

from mplug2_jax.training.config import default_config


def get_config():
    config = default_config("grounding", "large")
    config.train.path = "data/mplug2_data/refcoco_plus/1.0.0"
    config.validation.path = config.train.path
    config.validation.split = "validation"
    config.inputs.num_frames = 1
    config.inputs.question_length = 20
    config.inputs.num_bins = 336
    config.batch.batch_size = 48
    config.accumulation = 1
    config.batch.texts_per_medium = 4
    config.batch.crop_scale = None
    config.batch.flip = False
    config.batch.randaugment = None
    config.optimizer.learning_rate = 2e-5
    config.optimizer.vision_learning_rate = 5e-6
    config.optimizer.warmup_steps = 12520
    config.model.numerics.dtype = "bfloat16"
    config.model.numerics.remat = "full"
    config.epochs = 120.0
    config.eval_every = 2500
    config.eval_examples = 1000
    config.best_by = "grounding/accuracy_50"
    return config
