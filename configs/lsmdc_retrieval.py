"""LSMDC retrieval, large model.

Splits: 101079 clips, 1000 for test; of the validation part no number is published.
Published, text to video R@1/5/10: 34.4/55.2/65.1, zero-shot 24.1/43.8/52.0 (paper;
large). Reproduced: no.

    mplug2 prepare lsmdc_retrieval --manual-dir downloads/lsmdc --data-dir data
    mplug2 train --config configs/lsmdc_retrieval.py \\
        --workdir runs/lsmdc_retrieval --config.init_from=checkpoints/pretrained
    mplug2 evaluate --checkpoint runs/lsmdc_retrieval --task retrieval \\
        --annotations data/mplug2_data/lsmdc_retrieval/1.0.0 --rerank 128

The same evaluation of the pretraining checkpoint is zero-shot retrieval.

Source: mPLUG-2's recipe was never released; this is its family's. ALBEF
(configs/Retrieval_coco.yaml): 1e-5 to 1e-6, weight decay 0.02, queue 65536, momentum
0.995, soft targets 0.4 after the first epoch. 5 epochs, 32 tokens and k 128 as on
MSRVTT. mPLUG-2's other recipes: 16 frames, a tenth of the learning rate for vision.
Hardware: not measured; meant for 8 GPUs of 80 GB. `mplug2 plan` says what fits, and
`accumulation`, which changes no loss but the dropout drawn, makes it fit less.
"""

from mplug2_jax.training.config import default_config


def get_config():
    config = default_config("retrieval", "large")
    config.train.path = "data/mplug2_data/lsmdc_retrieval/1.0.0"
    config.validation.path = config.train.path
    config.validation.split = "validation"
    config.inputs.caption_length = 32
    config.batch.batch_size = 128
    config.accumulation = 4
    config.batch.captions_per_video = 1
    config.optimizer.learning_rate = 1e-5
    config.optimizer.vision_learning_rate = 1e-6
    config.distillation.weight = 0.4
    config.distillation.ramp_steps = 790
    config.rerank = 128
    config.model.numerics.dtype = "bfloat16"
    config.model.numerics.remat = "full"
    config.epochs = 5.0
    config.eval_every = 800
    config.eval_examples = 1000
    config.best_by = "text_to_video/recall_1"
    return config
